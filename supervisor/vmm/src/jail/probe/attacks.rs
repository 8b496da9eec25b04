//! What a filter must refuse whatever the numbers are that it is called with.

use std::sync::atomic::Ordering;

use super::{Attack, OWN, text};

/// What a filter must not let through whatever the arguments are, and what arguments it must look at.
pub(super) fn all() -> Vec<Attack> {
    const KVM_CREATE_VM: libc::c_long = 0xae01;
    const KVM_CREATE_VCPU: libc::c_long = 0xae41;
    const KVM_GET_REGS: libc::c_long = 0x8090_ae81;
    const TIOCSTI: libc::c_long = 0x5412;
    const TUNSETIFF: libc::c_long = 0x4004_54ca;
    const SIOCSIFNAME: libc::c_long = 0x8923;
    const KVM_SET_SREGS: libc::c_long = 0x4138_ae84;
    const KVM_CREATE_DEVICE: libc::c_long = 0xc00c_aee0;
    const KVM_ASSIGN_IRQFD: libc::c_long = 0x4020_ae76;
    const VFIO_GROUP_SET_CONTAINER: libc::c_long = 0x3b68;
    const FS_IOC_SETFLAGS: libc::c_long = 0x4008_6602;
    const PAGE: libc::c_long = 4096;
    let own = OWN.load(Ordering::Relaxed).into();
    let here: libc::c_long = libc::AT_FDCWD.into();
    let executable = libc::c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    let private = libc::c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let thread = libc::c_long::from(libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES);
    let all_threads = thread | libc::c_long::from(libc::CLONE_SIGHAND | libc::CLONE_THREAD);
    vec![
        (
            "open /etc/passwd",
            libc::SYS_open,
            [text(c"/etc/passwd"), 0, 0, 0, 0, 0],
        ),
        (
            "openat /proc/self/mem",
            libc::SYS_openat,
            [here, text(c"/proc/self/mem"), 2, 0, 0, 0],
        ),
        (
            "openat2 /dev/kvm",
            libc::SYS_openat2,
            [here, text(c"/dev/kvm"), 0, 24, 0, 0],
        ),
        ("socket unix", libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        ("socket inet", libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        ("socket netlink", libc::SYS_socket, [16, 3, 0, 0, 0, 0]),
        ("socket vsock", libc::SYS_socket, [40, 1, 0, 0, 0, 0]),
        ("connect", libc::SYS_connect, [0, 0, 0, 0, 0, 0]),
        (
            "send to an address",
            libc::SYS_sendto,
            [0, 0, 0, 0, text(c"address"), 16],
        ),
        (
            "ioctl KVM_CREATE_VM",
            libc::SYS_ioctl,
            [0, KVM_CREATE_VM, 0, 0, 0, 0],
        ),
        (
            "ioctl KVM_CREATE_VCPU",
            libc::SYS_ioctl,
            [0, KVM_CREATE_VCPU, 9, 0, 0, 0],
        ),
        (
            "ioctl KVM_GET_REGS",
            libc::SYS_ioctl,
            [0, KVM_GET_REGS, 0, 0, 0, 0],
        ),
        ("ioctl TIOCSTI", libc::SYS_ioctl, [0, TIOCSTI, 0, 0, 0, 0]),
        (
            "ioctl TUNSETIFF",
            libc::SYS_ioctl,
            [0, TUNSETIFF, 0, 0, 0, 0],
        ),
        (
            "ioctl SIOCSIFNAME",
            libc::SYS_ioctl,
            [0, SIOCSIFNAME, 0, 0, 0, 0],
        ),
        (
            "ioctl KVM_SET_SREGS",
            libc::SYS_ioctl,
            [0, KVM_SET_SREGS, 0, 0, 0, 0],
        ),
        (
            "ioctl KVM_CREATE_DEVICE",
            libc::SYS_ioctl,
            [0, KVM_CREATE_DEVICE, 0, 0, 0, 0],
        ),
        (
            "ioctl KVM_IRQFD",
            libc::SYS_ioctl,
            [0, KVM_ASSIGN_IRQFD, 0, 0, 0, 0],
        ),
        (
            "ioctl VFIO_GROUP_SET_CONTAINER",
            libc::SYS_ioctl,
            [0, VFIO_GROUP_SET_CONTAINER, 0, 0, 0, 0],
        ),
        (
            "ioctl FS_IOC_SETFLAGS",
            libc::SYS_ioctl,
            [0, FS_IOC_SETFLAGS, 0, 0, 0, 0],
        ),
        (
            "mprotect executable",
            libc::SYS_mprotect,
            [0, PAGE, executable, 0, 0, 0],
        ),
        (
            "mmap executable",
            libc::SYS_mmap,
            [0, PAGE, executable, private, -1, 0],
        ),
        (
            "mmap a file",
            libc::SYS_mmap,
            [0, PAGE, 1, libc::MAP_PRIVATE.into(), 0, 0],
        ),
        (
            "memfd_create",
            libc::SYS_memfd_create,
            [text(c"code"), 0, 0, 0, 0, 0],
        ),
        (
            "execve",
            libc::SYS_execve,
            [text(c"/bin/sh"), 0, 0, 0, 0, 0],
        ),
        (
            "execveat",
            libc::SYS_execveat,
            [0, text(c""), 0, 0, libc::AT_EMPTY_PATH.into(), 0],
        ),
        ("fork", libc::SYS_fork, [0; 6]),
        (
            "clone a process",
            libc::SYS_clone,
            [libc::SIGCHLD.into(), 0, 0, 0, 0, 0],
        ),
        (
            "clone a thread",
            libc::SYS_clone,
            [all_threads, 0, 0, 0, 0, 0],
        ),
        ("clone3", libc::SYS_clone3, [0, 64, 0, 0, 0, 0]),
        ("vfork", libc::SYS_vfork, [0; 6]),
        ("ptrace", libc::SYS_ptrace, [0; 6]),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            [1, 0, 0, 0, 0, 0],
        ),
        ("pidfd_open", libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 1, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
        (
            "remap executable",
            libc::SYS_mremap,
            [0, PAGE, PAGE, libc::MREMAP_FIXED.into(), 0, 0],
        ),
        (
            "fcntl F_SETFL",
            libc::SYS_fcntl,
            [0, libc::F_SETFL.into(), 0, 0, 0, 0],
        ),
        (
            "fcntl F_SETOWN",
            libc::SYS_fcntl,
            [0, libc::F_SETOWN.into(), 1, 0, 0, 0],
        ),
        (
            "madvise MADV_MERGEABLE",
            libc::SYS_madvise,
            [0, 0, libc::MADV_MERGEABLE.into(), 0, 0, 0],
        ),
        (
            "process_vm_writev",
            libc::SYS_process_vm_writev,
            [1, 0, 0, 0, 0, 0],
        ),
        (
            "tgkill another process",
            libc::SYS_tgkill,
            [2, 2, 9, 0, 0, 0],
        ),
        (
            "tgkill with SIGKILL",
            libc::SYS_tgkill,
            [own, 1, 9, 0, 0, 0],
        ),
        (
            "prctl",
            libc::SYS_prctl,
            [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0],
        ),
        ("seccomp", libc::SYS_seccomp, [0; 6]),
        ("rt_sigaction", libc::SYS_rt_sigaction, [31, 0, 0, 8, 0, 0]),
        (
            "io_uring_setup",
            libc::SYS_io_uring_setup,
            [1, 0, 0, 0, 0, 0],
        ),
        ("x32 getpid", 0x4000_0000 + libc::SYS_getpid, [0; 6]),
    ]
}
