//! What stands behind the filters: namespaces, an empty root, landlock, no capabilities, limits. Tried while there is no
//! filter, so each of them has to hold by itself.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::atomic::Ordering;

use super::{Arguments, Attack, Outcome, SEALED, attempt, pointer, say, text};

const WHO: &str = "walls";

/// An abstract socket that a server outside listens on, to be connected to.
const ABSTRACT: &str = "CASEMATE_PROBE_ABSTRACT";

/// The path of a socket that a server outside listens on.
const SERVER: &str = "CASEMATE_PROBE_SERVER";

/// The path of a file outside that its user may read.
const VOLUME: &str = "CASEMATE_PROBE_VOLUME";

/// The host, as a VM's kernel calls it (linux/vm_sockets.h).
const VSOCK_HOST: u32 = 2;

pub(super) fn attack() {
    paths();
    sockets();
    for (what, call, arguments) in rights() {
        say(WHO, what, &attempt(call, arguments));
    }
    /// linux/capability.h.
    const CAP_SYS_ADMIN: libc::c_long = 21;
    ask("dumpable", libc::PR_GET_DUMPABLE, 0);
    ask(
        "bounding set has CAP_SYS_ADMIN",
        libc::PR_CAPBSET_READ,
        CAP_SYS_ADMIN,
    );
    let version = [0, 0, 1, 0, 0, 0];
    let landlock = attempt(libc::SYS_landlock_create_ruleset, version);
    say(WHO, "landlock", &landlock);
    for number in 3..1024 {
        let seals = [number, libc::F_GET_SEALS.into(), 0, 0, 0, 0];
        if let Outcome::Done(1..) = attempt(libc::SYS_fcntl, seals)
            && let Ok(number) = RawFd::try_from(number)
        {
            SEALED.store(number, Ordering::Relaxed);
        }
    }
}

/// Says the answer to a question with its outcome.
fn ask(what: &str, question: i32, argument: libc::c_long) {
    let arguments = [question.into(), argument, 0, 0, 0, 0];
    match attempt(libc::SYS_prctl, arguments) {
        Outcome::Done(value) => say(WHO, &format!("{what} {value}"), &Outcome::Done(value)),
        other => say(WHO, what, &other),
    }
}

/// What B4-2 of the threat model names, and the root itself.
const PATHS: [&CStr; 11] = [
    c"/",
    c"/etc/passwd",
    c"/proc/self/mem",
    c"/proc/self/fd/3",
    c"/proc/1/environ",
    c"/proc/1/root/etc/passwd",
    c"/dev/kvm",
    c"/dev/null",
    c"/sys/kernel/uevent_helper",
    c"/run",
    c"..",
];

fn open(path: &CStr, flags: i32) -> Outcome {
    let here = libc::AT_FDCWD.into();
    let arguments = [here, pointer(path.as_ptr()), flags.into(), 0o600, 0, 0];
    attempt(libc::SYS_openat, arguments)
}

fn paths() {
    for path in PATHS {
        let outcome = open(path, libc::O_RDONLY);
        say(WHO, &format!("open {}", path.to_string_lossy()), &outcome);
    }
    let created = open(c"/new", libc::O_CREAT | libc::O_WRONLY);
    say(WHO, "create /new", &created);
    if let Some(volume) = path_of(VOLUME) {
        say(WHO, "open a volume", &open(&volume, libc::O_RDONLY));
        let here = libc::c_long::from(libc::AT_FDCWD);
        let status: [u8; 256] = [0; 256];
        let arguments = [
            here,
            pointer(volume.as_ptr()),
            pointer(status.as_ptr()),
            0,
            0,
            0,
        ];
        say(
            WHO,
            "look at a volume",
            &attempt(libc::SYS_newfstatat, arguments),
        );
    }
}

fn path_of(variable: &str) -> Option<CString> {
    let path = std::env::var_os(variable)?;
    CString::new(path.into_vec()).ok()
}

fn sockets() {
    if let Ok(name) = std::env::var(ABSTRACT) {
        let bytes = [&[0], name.as_bytes()].concat();
        say(WHO, "connect abstract", &connect_unix(&bytes));
    }
    if let Some(path) = path_of(SERVER) {
        say(WHO, "connect a path", &connect_unix(path.as_bytes()));
    }
    say(WHO, "connect 127.0.0.1", &connect_loopback());
    say(WHO, "connect the host's vsock", &connect_vsock());
    say(WHO, "switch the loopback device on", &loopback_on());
}

fn connect_unix(name: &[u8]) -> Outcome {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = family(libc::AF_UNIX);
    for (place, byte) in address.sun_path.iter_mut().zip(name) {
        *place = byte.cast_signed();
    }
    let len = size_of::<u16>() + name.len();
    let address = pointer(&raw const address);
    connect(libc::AF_UNIX, libc::SOCK_SEQPACKET, address, len)
}

fn connect_loopback() -> Outcome {
    let address = libc::sockaddr_in {
        sin_family: family(libc::AF_INET),
        sin_port: 22_u16.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let len = size_of::<libc::sockaddr_in>();
    let address = pointer(&raw const address);
    connect(libc::AF_INET, libc::SOCK_STREAM, address, len)
}

fn connect_vsock() -> Outcome {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = family(libc::AF_VSOCK);
    address.svm_cid = VSOCK_HOST;
    address.svm_port = 1;
    let len = size_of::<libc::sockaddr_vm>();
    let address = pointer(&raw const address);
    connect(libc::AF_VSOCK, libc::SOCK_STREAM, address, len)
}

fn family(number: i32) -> u16 {
    u16::try_from(number).unwrap_or(0)
}

fn connect(domain: i32, kind: i32, address: libc::c_long, len: usize) -> Outcome {
    with_socket(domain, kind, |socket| {
        let len = libc::c_long::try_from(len).unwrap_or(0);
        attempt(libc::SYS_connect, [socket, address, len, 0, 0, 0])
    })
}

fn with_socket(domain: i32, kind: i32, then: impl Fn(libc::c_long) -> Outcome) -> Outcome {
    match attempt(libc::SYS_socket, [domain.into(), kind.into(), 0, 0, 0, 0]) {
        Outcome::Done(socket) => {
            let outcome = then(socket);
            attempt(libc::SYS_close, [socket, 0, 0, 0, 0, 0]);
            outcome
        }
        other => other,
    }
}

/// An interface of our own network would be a way to have a network.
fn loopback_on() -> Outcome {
    const SIOCSIFFLAGS: libc::c_long = 0x8914;
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(0);
    with_socket(libc::AF_INET, libc::SOCK_DGRAM, |socket| {
        let request = pointer(&raw const request);
        attempt(libc::SYS_ioctl, [socket, SIOCSIFFLAGS, request, 0, 0, 0])
    })
}

/// Rights and limits to be had back.
fn rights() -> Vec<Attack> {
    /// The process that started all others.
    const OUTSIDE: libc::c_long = 2;
    static CORE: libc::rlimit = libc::rlimit {
        rlim_cur: 1,
        rlim_max: 1,
    };
    /// Version 3 of the header, ourselves (linux/capability.h).
    static HEADER: [u32; 2] = [0x2008_0522, 0];
    /// Effective, permitted and inheritable, twice: all of the first 32.
    static EVERYTHING: [u32; 6] = [u32::MAX, u32::MAX, 0, 0, 0, 0];
    let mount: Arguments = [text(c"none"), text(c"/"), text(c"proc"), 0, 0, 0];
    let bind: Arguments = [
        text(c"/"),
        text(c"/"),
        0,
        libc::c_long::try_from(libc::MS_REMOUNT | libc::MS_BIND).unwrap_or(0),
        0,
        0,
    ];
    let limit = libc::c_long::from(libc::RLIMIT_CORE);
    let core = pointer(&raw const CORE);
    vec![
        (
            "signal a process of the host",
            libc::SYS_kill,
            [OUTSIDE, 0, 0, 0, 0, 0],
        ),
        (
            "trace a process of the host",
            libc::SYS_ptrace,
            [libc::PTRACE_SEIZE.into(), OUTSIDE, 0, 0, 0, 0],
        ),
        ("mount", libc::SYS_mount, mount),
        ("make the root writable", libc::SYS_mount, bind),
        (
            "unmount the root",
            libc::SYS_umount2,
            [text(c"/"), 2, 0, 0, 0, 0],
        ),
        ("chroot", libc::SYS_chroot, [text(c"/"), 0, 0, 0, 0, 0]),
        (
            "another host name",
            libc::SYS_sethostname,
            [text(c"x"), 1, 0, 0, 0, 0],
        ),
        (
            "make a device",
            libc::SYS_mknod,
            [text(c"/kvm"), 0o20600, 10 << 8 | 232, 0, 0, 0],
        ),
        (
            "be another user",
            libc::SYS_setresuid,
            [0x7fff_fff0, 0x7fff_fff0, 0x7fff_fff0, 0, 0, 0],
        ),
        ("leave groups", libc::SYS_setgroups, [0; 6]),
        (
            "have capabilities back",
            libc::SYS_capset,
            [
                pointer(HEADER.as_ptr()),
                pointer(EVERYTHING.as_ptr()),
                0,
                0,
                0,
                0,
            ],
        ),
        (
            "have core files back",
            libc::SYS_setrlimit,
            [limit, core, 0, 0, 0, 0],
        ),
        (
            "load a module",
            libc::SYS_init_module,
            [0, 0, text(c""), 0, 0, 0],
        ),
        ("join a namespace", libc::SYS_setns, [2, 0, 0, 0, 0, 0]),
    ]
}
