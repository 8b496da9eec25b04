//! System call filters: an allow-list per class of thread, everything else ends the process.
//!
//! All threads exist before the first filter is installed, so creating threads is on no list. On no list either:
//! anything with a path, `socket`, `connect`, `execve`, `fork`, `clone`, `ptrace`, and memory that can be executed.

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Kinds of threads, by what they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadClass {
    /// Runs a vCPU and answers its exits.
    Vcpu,
    /// Serves one disk.
    Disk,
    /// Serves all other devices and the control socket.
    Main,
}

/// Compiled filters of all classes.
#[derive(Debug)]
pub(crate) struct Filters {
    vcpu: Arc<BpfProgram>,
    disk: Arc<BpfProgram>,
    main: Arc<BpfProgram>,
}

/// ioctls that a running vCPU thread makes (linux/kvm.h): run the guest, tell it of a pause, and follow interrupt
/// routes, notification addresses and the window memory's BAR when the guest moves them.
const VCPU_IOCTLS: [u64; 6] = [
    0xae80,      // KVM_RUN
    0xaead,      // KVM_KVMCLOCK_CTRL
    0x4008_ae6a, // KVM_SET_GSI_ROUTING
    0x4040_ae79, // KVM_IOEVENTFD
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
    FIONBIO,
];

/// ioctls of the main thread: of sockets, and those that read the state of a VM that stands still for a snapshot. None that
/// would set it: a restore happens before there are filters.
const MAIN_IOCTLS: [u64; 15] = [
    FIONBIO,
    0x541b,      // FIONREAD
    0x8030_ae7c, // KVM_GET_CLOCK
    0x8070_ae9f, // KVM_GET_PIT2
    0xc208_ae62, // KVM_GET_IRQCHIP
    0x8004_ae98, // KVM_GET_MP_STATE
    0x8090_ae81, // KVM_GET_REGS
    0x8138_ae83, // KVM_GET_SREGS
    0x9000_aea4, // KVM_GET_XSAVE
    0x8188_aea6, // KVM_GET_XCRS
    0x8080_aea1, // KVM_GET_DEBUGREGS
    0x8400_ae8e, // KVM_GET_LAPIC
    0xaea3,      // KVM_GET_TSC_KHZ
    0xc008_ae88, // KVM_GET_MSRS
    0x8040_ae9f, // KVM_GET_VCPU_EVENTS
];

/// "Non-blocking", on links and on sockets that a service offered. A driver's DRIVER_OK activates a device on a vCPU
/// thread, so that one needs it too.
const FIONBIO: u64 = 0x5421;

/// What any thread needs to compute, wait, allocate, log and end.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_ctl,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// A device is activated and reset on the vCPU thread whose guest writes its status: a timer is stopped, streams end.
const VCPU: &[libc::c_long] = &[libc::SYS_shutdown, libc::SYS_timerfd_settime];

/// Files of a disk.
const DISK: &[libc::c_long] = &[
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
];

/// Streams and messages of services, timers, and the signal that takes vCPUs out of the guest.
const MAIN: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fstat,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_lseek, // Holes of the file behind a restored VM's memory.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_timerfd_settime,
    libc::SYS_writev,
];

impl Filters {
    /// Compiles them, for this process: signals may only go to its own threads.
    pub(crate) fn new() -> Result<Self, seccompiler::Error> {
        Ok(Self {
            vcpu: Arc::new(compile(ThreadClass::Vcpu)?),
            disk: Arc::new(compile(ThreadClass::Disk)?),
            main: Arc::new(compile(ThreadClass::Main)?),
        })
    }

    /// Takes on the filter of a class, for the calling thread and for ever.
    pub(crate) fn install(&self, class: ThreadClass) -> Result<(), seccompiler::Error> {
        seccompiler::apply_filter(match class {
            ThreadClass::Vcpu => &self.vcpu,
            ThreadClass::Disk => &self.disk,
            ThreadClass::Main => &self.main,
        })
    }
}

fn compile(class: ThreadClass) -> Result<BpfProgram, seccompiler::Error> {
    let filter = SeccompFilter::new(
        rules(class)?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(class: ThreadClass) -> Result<Rules, seccompiler::Error> {
    let (calls, ioctls): (&[libc::c_long], &[u64]) = match class {
        ThreadClass::Vcpu => (VCPU, &VCPU_IOCTLS),
        ThreadClass::Disk => (DISK, &[]),
        ThreadClass::Main => (MAIN, &MAIN_IOCTLS),
    };
    let mut rules: Rules = COMMON
        .iter()
        .chain(calls)
        .map(|call| (*call, Vec::new()))
        .collect();
    if !ioctls.is_empty() {
        rules.insert(libc::SYS_ioctl, one_of(1, ioctls)?);
    }
    // No new memory that can be executed.
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_executable = condition(2, SeccompCmpOp::MaskedEq(executable), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![not_executable])?]);
    }
    // No signals to anybody else.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, one_of(0, &[own])?);
    // Descriptor flags, duplicates; no locks, leases, signals or seals.
    let commands = [
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
    ]
    .map(|command| u64::from(command.cast_unsigned()));
    rules.insert(libc::SYS_fcntl, one_of(1, &commands)?);
    Ok(rules)
}

/// Rules that let argument `index` be one of `values`.
fn one_of(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    values
        .iter()
        .map(|value| {
            let equal = condition(index, SeccompCmpOp::Eq, *value)?;
            Ok(SeccompRule::new(vec![equal])?)
        })
        .collect()
}

fn condition(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(
        index,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_class_may_reach_out() {
        for class in [ThreadClass::Vcpu, ThreadClass::Disk, ThreadClass::Main] {
            let rules = rules(class).expect("rules are well-formed");
            for call in [
                libc::SYS_open,
                libc::SYS_openat,
                libc::SYS_openat2,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_bind,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_ptrace,
                libc::SYS_kill,
                libc::SYS_process_vm_writev,
                libc::SYS_memfd_create,
                libc::SYS_io_uring_setup,
                libc::SYS_bpf,
                libc::SYS_unshare,
                libc::SYS_mount,
            ] {
                assert!(!rules.contains_key(&call), "{class:?} may call {call}");
            }
            // An empty list of conditions would allow every use.
            for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_tgkill] {
                assert!(!rules[&call].is_empty(), "{class:?}, {call}");
            }
            assert!(compile(class).is_ok());
        }
    }

    #[test]
    fn only_vcpus_change_what_kvm_does() {
        for class in [ThreadClass::Disk, ThreadClass::Main] {
            let rules = rules(class).expect("rules are well-formed");
            let ioctls = rules.get(&libc::SYS_ioctl).map_or(0, Vec::len);
            let expected = if class == ThreadClass::Main {
                MAIN_IOCTLS.len()
            } else {
                0
            };
            assert_eq!(ioctls, expected, "{class:?}");
        }
        // Those of KVM read: the kernel writes to us (bit 31), or there is no argument.
        for ioctl in MAIN_IOCTLS
            .into_iter()
            .filter(|ioctl| ioctl & 0xff00 == 0xae00)
        {
            assert!(ioctl >> 31 == 1 || ioctl == 0xaea3, "{ioctl:#x}");
        }
    }
}
