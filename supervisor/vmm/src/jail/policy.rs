//! Which system calls a thread may make once the VM runs: one table for all classes of threads.
//!
//! All threads exist, and everything is open, before the first filter is in place. So nothing is listed that makes a
//! thread or a process, takes a path or the address of a socket, changes how a signal is handled or what memory may be
//! used for, or maps a file. A call that only a dying process makes (`abort` asks for its thread's number) is not
//! listed either: the filter ends the process then, and says so.

use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_ioeventfd, kvm_irq_routing, kvm_irqchip, kvm_lapic_state,
    kvm_mp_state, kvm_msrs, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use rustix::ioctl::opcode;

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

use ThreadClass::{Disk, Main, Vcpu};

impl ThreadClass {
    /// As it is called in messages and in the documented table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Disk => "disk",
            Self::Main => "main",
        }
    }
}

/// A test of one argument, counted from 0, of which the kernel uses the low 32 bits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    /// It is this value.
    Is(u8, u32),
    /// The bits of the first number are as in the second.
    Bits(u8, u32, u32),
    /// It is the number of this process.
    OwnProcess(u8),
}

use Test::{Bits, Is, OwnProcess};

/// A system call that some classes may make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// With its prefix `SYS_`.
    symbol: &'static str,
    pub(super) number: libc::c_long,
    classes: &'static [ThreadClass],
    /// Alternatives; all tests of one must hold. None at all: any use is allowed.
    pub(super) uses: &'static [&'static [Test]],
    /// The same for a person; empty when any use is allowed.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the documented table"))]
    only: &'static str,
    /// What it is needed for.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the documented table"))]
    purpose: &'static str,
}

macro_rules! allow {
    ($call:ident, $classes:expr, $purpose:literal) => {
        allow!($call, $classes, $purpose, &[], "")
    };
    ($call:ident, $classes:expr, $purpose:literal, $uses:expr, $only:literal) => {
        Allowed {
            symbol: stringify!($call),
            number: libc::$call,
            classes: $classes,
            uses: $uses,
            only: $only,
            purpose: $purpose,
        }
    };
}

const ALL: &[ThreadClass] = &[Vcpu, Disk, Main];

/// KVM's letter in the numbers of its ioctls (linux/kvm.h).
const KVMIO: u8 = 0xae;
const KVM_RUN: u32 = opcode::none(KVMIO, 0x80);
const KVM_KVMCLOCK_CTRL: u32 = opcode::none(KVMIO, 0xad);
const KVM_SET_GSI_ROUTING: u32 = opcode::write::<kvm_irq_routing>(KVMIO, 0x6a);
const KVM_IOEVENTFD: u32 = opcode::write::<kvm_ioeventfd>(KVMIO, 0x79);
const KVM_SET_USER_MEMORY_REGION: u32 = opcode::write::<kvm_userspace_memory_region>(KVMIO, 0x46);

const KVM_GET_CLOCK: u32 = opcode::read::<kvm_clock_data>(KVMIO, 0x7c);
const KVM_GET_PIT2: u32 = opcode::read::<kvm_pit_state2>(KVMIO, 0x9f);
const KVM_GET_IRQCHIP: u32 = opcode::read_write::<kvm_irqchip>(KVMIO, 0x62);
const KVM_GET_MP_STATE: u32 = opcode::read::<kvm_mp_state>(KVMIO, 0x98);
const KVM_GET_REGS: u32 = opcode::read::<kvm_regs>(KVMIO, 0x81);
const KVM_GET_SREGS: u32 = opcode::read::<kvm_sregs>(KVMIO, 0x83);
const KVM_GET_XSAVE: u32 = opcode::read::<kvm_xsave>(KVMIO, 0xa4);
const KVM_GET_XCRS: u32 = opcode::read::<kvm_xcrs>(KVMIO, 0xa6);
const KVM_GET_DEBUGREGS: u32 = opcode::read::<kvm_debugregs>(KVMIO, 0xa1);
const KVM_GET_LAPIC: u32 = opcode::read::<kvm_lapic_state>(KVMIO, 0x8e);
const KVM_GET_TSC_KHZ: u32 = opcode::none(KVMIO, 0xa3);
const KVM_GET_MSRS: u32 = opcode::read_write::<kvm_msrs>(KVMIO, 0x88);
const KVM_GET_VCPU_EVENTS: u32 = opcode::read::<kvm_vcpu_events>(KVMIO, 0x9f);

// asm-generic/ioctls.h.
const FIONBIO: u32 = 0x5421;
const FIONREAD: u32 = 0x541b;

/// The operation of a futex call, without the bits "of this process only" and "by the wall clock" (linux/futex.h).
const FUTEX_OPERATION: u32 = !(128 | 256);
const FUTEX_WAIT: u32 = 0;
const FUTEX_WAKE: u32 = 1;
const FUTEX_WAIT_BITSET: u32 = 9;

const EXECUTABLE: u32 = libc::PROT_EXEC.cast_unsigned();
const ANONYMOUS: u32 = libc::MAP_ANONYMOUS.cast_unsigned();
const MAY_MOVE: u32 = libc::MREMAP_MAYMOVE.cast_unsigned();
const DONT_NEED: u32 = libc::MADV_DONTNEED.cast_unsigned();
const REMOVE: u32 = libc::MADV_REMOVE.cast_unsigned();
const DUPLICATE: u32 = libc::F_DUPFD_CLOEXEC.cast_unsigned();
const GET_STATUS: u32 = libc::F_GETFL.cast_unsigned();
const GET_FLAGS: u32 = libc::F_GETFD.cast_unsigned();
const SOL_SOCKET: u32 = libc::SOL_SOCKET.cast_unsigned();
const SO_TYPE: u32 = libc::SO_TYPE.cast_unsigned();
const SO_DOMAIN: u32 = libc::SO_DOMAIN.cast_unsigned();

/// The signal that takes a vCPU out of the guest: `SIGRTMIN`, as the C library counts it.
const KICK: u32 = 34;

/// Everything that is allowed, by name.
pub(super) const POLICY: &[Allowed] = &[
    allow!(SYS_accept4, &[Main], "a supervisor connects"),
    allow!(SYS_brk, ALL, "allocate"),
    allow!(SYS_clock_gettime, ALL, "clocks that need the kernel"),
    allow!(SYS_clock_nanosleep, &[Main], "wait for threads to stop"),
    allow!(SYS_close, ALL, "a device is reset, a stream ends"),
    allow!(SYS_epoll_ctl, ALL, "a device is started or reset"),
    allow!(SYS_epoll_wait, &[Disk, Main], "wait for work"),
    allow!(SYS_eventfd2, &[Disk], "a disk is plugged in"),
    allow!(SYS_exit, ALL, "the thread ends"),
    allow!(SYS_exit_group, ALL, "the process ends"),
    allow!(SYS_fallocate, &[Disk], "discard and write zeroes"),
    allow!(
        SYS_fcntl,
        ALL,
        "a queue's doorbell is copied for its device; how a disk that is plugged in was opened; a debug build looks \
         before it closes",
        &[
            &[Is(1, DUPLICATE)],
            &[Is(1, GET_FLAGS)],
            &[Is(1, GET_STATUS)],
        ],
        "F_DUPFD_CLOEXEC, F_GETFD, F_GETFL"
    ),
    allow!(SYS_fdatasync, &[Disk], "flush"),
    allow!(SYS_fstat, &[Disk, Main], "length of a volume or a snapshot"),
    allow!(SYS_fsync, &[Disk], "flush an overlay"),
    allow!(SYS_ftruncate, &[Disk], "an overlay grows"),
    allow!(
        SYS_futex,
        ALL,
        "locks, and ends of threads",
        &[
            &[Bits(1, FUTEX_OPERATION, FUTEX_WAIT)],
            &[Bits(1, FUTEX_OPERATION, FUTEX_WAKE)],
            &[Bits(1, FUTEX_OPERATION, FUTEX_WAIT_BITSET)],
        ],
        "WAIT, WAKE, WAIT_BITSET"
    ),
    allow!(SYS_getpid, &[Main], "send a signal to a thread"),
    allow!(
        SYS_getrandom,
        &[Disk, Main],
        "the guest's random numbers; seeds of hash tables"
    ),
    allow!(
        SYS_getsockopt,
        &[Main],
        "what kind of stream a service offers",
        &[
            &[Is(1, SOL_SOCKET), Is(2, SO_TYPE)],
            &[Is(1, SOL_SOCKET), Is(2, SO_DOMAIN)]
        ],
        "SO_TYPE, SO_DOMAIN"
    ),
    allow!(
        SYS_ioctl,
        &[Vcpu],
        "run the guest, tell it of a pause, follow its interrupt routes, doorbells and window memory; \
         a vsock driver starts",
        &[
            &[Is(1, KVM_RUN)],
            &[Is(1, KVM_KVMCLOCK_CTRL)],
            &[Is(1, KVM_SET_GSI_ROUTING)],
            &[Is(1, KVM_IOEVENTFD)],
            &[Is(1, KVM_SET_USER_MEMORY_REGION)],
            &[Is(1, FIONBIO)],
        ],
        "KVM_RUN, KVM_KVMCLOCK_CTRL, KVM_SET_GSI_ROUTING, KVM_IOEVENTFD, KVM_SET_USER_MEMORY_REGION, FIONBIO"
    ),
    allow!(
        SYS_ioctl,
        &[Main],
        "links and streams of services; save a VM that stands still, which sets nothing",
        &[
            &[Is(1, FIONBIO)],
            &[Is(1, FIONREAD)],
            &[Is(1, KVM_GET_CLOCK)],
            &[Is(1, KVM_GET_PIT2)],
            &[Is(1, KVM_GET_IRQCHIP)],
            &[Is(1, KVM_GET_MP_STATE)],
            &[Is(1, KVM_GET_REGS)],
            &[Is(1, KVM_GET_SREGS)],
            &[Is(1, KVM_GET_XSAVE)],
            &[Is(1, KVM_GET_XCRS)],
            &[Is(1, KVM_GET_DEBUGREGS)],
            &[Is(1, KVM_GET_LAPIC)],
            &[Is(1, KVM_GET_TSC_KHZ)],
            &[Is(1, KVM_GET_MSRS)],
            &[Is(1, KVM_GET_VCPU_EVENTS)],
        ],
        "FIONBIO, FIONREAD; KVM_GET_ with CLOCK, PIT2, IRQCHIP, MP_STATE, REGS, SREGS, XSAVE, XCRS, DEBUGREGS, LAPIC, \
         TSC_KHZ, MSRS, VCPU_EVENTS"
    ),
    allow!(SYS_lseek, &[Main], "holes of a restored VM's memory file"),
    allow!(
        SYS_madvise,
        &[Vcpu, Disk],
        "a thread's stack goes",
        &[&[Is(2, DONT_NEED)]],
        "MADV_DONTNEED"
    ),
    allow!(
        SYS_madvise,
        &[Main],
        "the balloon gives memory back",
        &[&[Is(2, DONT_NEED)], &[Is(2, REMOVE)]],
        "MADV_DONTNEED, MADV_REMOVE"
    ),
    allow!(
        SYS_mmap,
        ALL,
        "allocate; the balloon of a restored VM",
        &[&[Bits(2, EXECUTABLE, 0), Bits(3, ANONYMOUS, ANONYMOUS)]],
        "anonymous, not executable"
    ),
    allow!(
        SYS_mremap,
        ALL,
        "allocate",
        &[&[Is(3, MAY_MOVE)]],
        "MREMAP_MAYMOVE"
    ),
    allow!(SYS_munmap, ALL, "free"),
    allow!(SYS_ppoll, &[Main], "whether an offered stream still lives"),
    allow!(
        SYS_pread64,
        ALL,
        "read a volume, an assigned device's registers, memory to save, which pages were touched"
    ),
    allow!(SYS_preadv, &[Disk], "read a volume"),
    allow!(
        SYS_pwrite64,
        ALL,
        "console log; write a volume, an assigned device's registers"
    ),
    allow!(SYS_pwritev, &[Disk], "write a volume"),
    allow!(SYS_read, ALL, "doorbells, timers, a tap"),
    allow!(SYS_recvfrom, &[Main], "streams and wires"),
    allow!(SYS_recvmsg, &[Main], "links, wires, control"),
    allow!(
        SYS_restart_syscall,
        &[Disk, Main],
        "go on after the process was stopped"
    ),
    allow!(SYS_rt_sigprocmask, ALL, "a thread ends or is signalled"),
    allow!(SYS_rt_sigreturn, ALL, "after a signal"),
    allow!(
        SYS_sched_yield,
        &[Disk],
        "a lock of an overlay is contended"
    ),
    allow!(SYS_sendmsg, &[Main], "wires, control"),
    allow!(
        SYS_sendto,
        &[Main],
        "streams and wires",
        &[&[Is(5, 0)]],
        "no address"
    ),
    allow!(
        SYS_shutdown,
        &[Vcpu, Main],
        "one half of a stream ends; a driver is reset"
    ),
    allow!(SYS_sigaltstack, ALL, "a thread ends"),
    allow!(
        SYS_tgkill,
        &[Main],
        "take a vCPU out of the guest",
        &[&[OwnProcess(0), Is(2, KICK)]],
        "this process, SIGRTMIN"
    ),
    allow!(
        SYS_timerfd_settime,
        &[Vcpu, Main],
        "a device waits; a driver is reset"
    ),
    allow!(SYS_write, ALL, "doorbells, interrupts, log lines"),
    allow!(SYS_writev, &[Main], "a tap"),
];

impl Allowed {
    /// As everybody calls it.
    pub(super) fn name(&self) -> &'static str {
        self.symbol.strip_prefix("SYS_").unwrap_or(self.symbol)
    }
}

/// What a class may do.
pub(super) fn allowed(class: ThreadClass) -> impl Iterator<Item = &'static Allowed> {
    POLICY
        .iter()
        .filter(move |allowed| allowed.classes.contains(&class))
}

/// The name of a system call that some class may make.
pub(super) fn name_of(number: libc::c_long) -> Option<&'static str> {
    POLICY
        .iter()
        .find(|allowed| allowed.number == number)
        .map(Allowed::name)
}

#[cfg(test)]
mod tests;
