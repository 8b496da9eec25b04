//! Attacks on our own jail, for the test of it: what a guest that has taken over a thread of this process might try
//! first. Only in builds with the feature `escape-probe`, which are for `tests/escape.rs` and nobody else.
//!
//! Each prints a line on standard error: who tried what, and what came of it: `blocked` by the filter, `error N` by a
//! wall behind it, or `done`.
#![expect(
    unsafe_code,
    reason = "the point is to make system calls that nobody should make"
)]

use std::cell::Cell;
use std::ffi::CStr;
use std::io::Write as _;
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use super::policy::{self, ThreadClass};

/// In front of every line, and in no other build of this program.
const MARK: &str = "escape-probe:";

/// Which class of thread makes a blocked call for good once all have tried everything.
const LAST: &str = "CASEMATE_PROBE_LAST";

/// An abstract socket that a server outside listens on, to be connected to.
const OUTSIDE: &str = "CASEMATE_PROBE_SOCKET";

/// Highest number of a system call that is tried.
const LAST_CALL: libc::c_long = 500;

/// Calls that do not come back to say what came of them.
const NO_RETURN: [libc::c_long; 4] = [
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_ppoll,
];

thread_local! {
    /// Whether this thread tries something now, and whether it was blocked.
    static TRYING: Cell<bool> = const { Cell::new(false) };
    static BLOCKED: Cell<bool> = const { Cell::new(false) };
}

/// One thread at a time, so that lines stay whole.
static TURN: Mutex<()> = Mutex::new(());

/// The window memory: the only descriptor with seals.
static SEALED: AtomicI32 = AtomicI32::new(-1);

/// Called by the handler of SIGSYS: whether the call was only a try.
pub(super) fn caught() -> bool {
    if TRYING.get() {
        BLOCKED.set(true);
    }
    TRYING.get()
}

enum Outcome {
    Blocked,
    Error(i32),
    Done(i64),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blocked => formatter.write_str("blocked"),
            Self::Error(errno) => write!(formatter, "error {errno}"),
            Self::Done(_) => formatter.write_str("done"),
        }
    }
}

type Arguments = [libc::c_long; 6];

fn attempt(call: libc::c_long, arguments: Arguments) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    TRYING.set(true);
    BLOCKED.set(false);
    // SAFETY: none, by intention; what is tried is chosen so that this process survives what is allowed.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    TRYING.set(false);
    match (BLOCKED.get(), result, errno) {
        (true, ..) => Outcome::Blocked,
        (false, -1, Some(errno)) => Outcome::Error(errno),
        (false, result, _) => Outcome::Done(result),
    }
}

fn say(who: &str, what: &str, outcome: &Outcome) {
    // Without a log there is nothing to test.
    let _ = writeln!(std::io::stderr(), "{MARK} {who} {what}: {outcome}");
}

fn pointer<T>(to: *const T) -> libc::c_long {
    to.addr().cast_signed() as libc::c_long
}

fn text(text: &'static CStr) -> libc::c_long {
    pointer(text.as_ptr())
}

/// Behind the filter: what the other walls leave of paths and sockets. Called before there is a filter.
pub(super) fn try_walls() {
    let who = "walls";
    for path in PATHS {
        let arguments = [
            libc::AT_FDCWD.into(),
            text(path),
            libc::O_RDONLY.into(),
            0,
            0,
            0,
        ];
        let outcome = attempt(libc::SYS_openat, arguments);
        say(who, &format!("open {}", path.to_string_lossy()), &outcome);
    }
    let created = attempt(
        libc::SYS_openat,
        [
            libc::AT_FDCWD.into(),
            text(c"/new"),
            (libc::O_CREAT | libc::O_WRONLY).into(),
            0o600,
            0,
            0,
        ],
    );
    say(who, "create /new", &created);
    if let Ok(name) = std::env::var(OUTSIDE) {
        say(who, "connect abstract", &connect_abstract(name.as_bytes()));
    }
    say(who, "connect 127.0.0.1", &connect_loopback());
    say(
        who,
        "signal process 1 of the host",
        &attempt(libc::SYS_kill, [2, 0, 0, 0, 0, 0]),
    );
    let mount = [text(c"none"), text(c"/"), text(c"proc"), 0, 0, 0];
    say(who, "mount", &attempt(libc::SYS_mount, mount));
    let dumpable = [libc::PR_GET_DUMPABLE.into(), 0, 0, 0, 0, 0];
    match attempt(libc::SYS_prctl, dumpable) {
        Outcome::Done(value) => say(who, &format!("dumpable {value}"), &Outcome::Done(value)),
        other => say(who, "dumpable", &other),
    }
    let version = [0, 0, 1, 0, 0, 0];
    say(
        who,
        "landlock",
        &attempt(libc::SYS_landlock_create_ruleset, version),
    );
    for number in 3..1024 {
        let seals = [number, libc::F_GET_SEALS.into(), 0, 0, 0, 0];
        if let Outcome::Done(1..) = attempt(libc::SYS_fcntl, seals)
            && let Ok(number) = RawFd::try_from(number)
        {
            SEALED.store(number, Ordering::Relaxed);
        }
    }
}

/// What B4-2 of the threat model names, and the root itself.
const PATHS: [&CStr; 8] = [
    c"/",
    c"/etc/passwd",
    c"/proc/self/mem",
    c"/proc/1/environ",
    c"/dev/kvm",
    c"/dev/null",
    c"/run",
    c"..",
];

fn connect_abstract(name: &[u8]) -> Outcome {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = u16::try_from(libc::AF_UNIX).unwrap_or(0);
    for (place, byte) in address.sun_path.iter_mut().skip(1).zip(name) {
        *place = byte.cast_signed();
    }
    let len = size_of::<u16>() + 1 + name.len();
    connect(
        libc::AF_UNIX,
        libc::SOCK_SEQPACKET,
        pointer(&raw const address),
        len,
    )
}

fn connect_loopback() -> Outcome {
    let address = libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET).unwrap_or(0),
        sin_port: 22_u16.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let len = size_of::<libc::sockaddr_in>();
    connect(
        libc::AF_INET,
        libc::SOCK_STREAM,
        pointer(&raw const address),
        len,
    )
}

fn connect(domain: i32, kind: i32, address: libc::c_long, len: usize) -> Outcome {
    match attempt(libc::SYS_socket, [domain.into(), kind.into(), 0, 0, 0, 0]) {
        Outcome::Done(socket) => {
            let len = libc::c_long::try_from(len).unwrap_or(0);
            let outcome = attempt(libc::SYS_connect, [socket, address, len, 0, 0, 0]);
            attempt(libc::SYS_close, [socket, 0, 0, 0, 0, 0]);
            outcome
        }
        other => other,
    }
}

/// From a thread that has its filter, before the guest runs.
pub(crate) fn try_filter(class: ThreadClass) {
    {
        let _turn = TURN.lock();
        sweep(class);
        for (what, call, arguments) in attacks() {
            say(class.name(), what, &attempt(call, arguments));
        }
        window_memory(class);
    }
    if std::env::var(LAST).is_ok_and(|last| last == class.name()) {
        // SAFETY: a socket that is never made.
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    }
}

/// Every system call with nothing but zeroes.
fn sweep(class: ThreadClass) {
    let mut names = Vec::new();
    for call in (0..=LAST_CALL).filter(|call| !NO_RETURN.contains(call)) {
        if !matches!(attempt(call, [0; 6]), Outcome::Blocked) {
            names.push(policy::name_of(call).map_or_else(|| call.to_string(), str::to_owned));
        }
    }
    let outcome = Outcome::Done(0);
    say(
        class.name(),
        &format!("sweep [{}]", names.join(" ")),
        &outcome,
    );
}

/// What a filter must not let through whatever the arguments are, and what arguments it must look at.
fn attacks() -> Vec<(&'static str, libc::c_long, Arguments)> {
    const KVM_CREATE_VM: libc::c_long = 0xae01;
    const KVM_CREATE_VCPU: libc::c_long = 0xae41;
    const KVM_GET_REGS: libc::c_long = 0x8090_ae81;
    const TIOCSTI: libc::c_long = 0x5412;
    const TUNSETIFF: libc::c_long = 0x4004_54ca;
    const PAGE: libc::c_long = 4096;
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
        ("ptrace", libc::SYS_ptrace, [0; 6]),
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
            [std::process::id().into(), 1, 9, 0, 0, 0],
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

/// Who shares the window memory must never fault on it.
fn window_memory(class: ThreadClass) {
    let sealed = SEALED.load(Ordering::Relaxed).into();
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    for (what, call, arguments) in [
        (
            "shrink the window memory",
            libc::SYS_ftruncate,
            [sealed, 0, 0, 0, 0, 0],
        ),
        (
            "grow the window memory",
            libc::SYS_ftruncate,
            [sealed, 1 << 40, 0, 0, 0, 0],
        ),
        (
            "unseal the window memory",
            libc::SYS_fcntl,
            [sealed, libc::F_ADD_SEALS.into(), 0, 0, 0, 0],
        ),
        (
            "punch the window memory",
            libc::SYS_fallocate,
            [sealed, punch.into(), 4096, 4096, 0, 0],
        ),
    ] {
        say(class.name(), what, &attempt(call, arguments));
    }
}
