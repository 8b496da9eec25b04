//! A vmm that attacks its own jail (feature `escape-probe`): what each class of thread can still do is exactly what the
//! documented table says, and what it cannot do ends it visibly.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Seek as _};

use casemate_vmm_control::{Action, Event, StopReason};

use crate::jail::PROBE_MARK;
use crate::payload;
use crate::vm::{self, Parts, Vm};

/// Everything that the probes of a VM said.
struct Probes(String);

impl Probes {
    /// What came of one attempt; every thread of the class must say the same.
    fn outcome(&self, who: &str, what: &str) -> &str {
        let start = format!("{PROBE_MARK} {who} {what}: ");
        let found: BTreeSet<_> = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(&start))
            .collect();
        assert_eq!(found.len(), 1, "{start}{found:?}\n{}", self.0);
        found.into_iter().next().unwrap_or_default()
    }

    /// What each class tried, without the sweeps.
    fn attempts(&self, who: &str) -> BTreeMap<&str, &str> {
        let start = format!("{PROBE_MARK} {who} ");
        let mut found = BTreeMap::new();
        for line in self.0.lines() {
            let Some((what, outcome)) = line
                .strip_prefix(&start)
                .filter(|rest| !rest.starts_with("sweep") && !rest.starts_with("ioctls"))
                .and_then(|rest| rest.rsplit_once(": "))
            else {
                continue;
            };
            let before = found.insert(what, outcome);
            assert!(before.is_none_or(|before| before == outcome), "{line}");
        }
        found
    }

    /// What of a sweep was not blocked; every thread of the class that made it must say the same.
    fn sweep(&self, who: &str, what: &str) -> BTreeSet<&str> {
        let start = format!("{PROBE_MARK} {who} {what} [");
        let found: BTreeSet<_> = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(&start)?.strip_suffix("]: done"))
            .collect();
        assert_eq!(found.len(), 1, "{found:?}\n{}", self.0);
        found
            .into_iter()
            .flat_map(|names| names.split(' '))
            .filter(|name| !name.is_empty())
            .collect()
    }
}

/// What a VM logs, shown when a test fails: a VM that ended answers nothing.
struct Log(fs::File);

impl Log {
    fn new() -> Self {
        Self(tempfile::tempfile().expect("a file"))
    }

    fn read(&self) -> String {
        let mut text = String::new();
        let mut file = &self.0;
        file.rewind().expect("a file");
        file.read_to_string(&mut text).expect("text");
        text
    }
}

#[expect(clippy::print_stdout, reason = "for whoever reads why a test failed")]
impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.read());
        }
    }
}

/// The documented table: what a class may call with nothing but zeroes.
fn documented(class: usize) -> BTreeSet<String> {
    let document = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/protocols/vmm.md"
    ))
    .expect("the document");
    let rows = document
        .lines()
        .skip_while(|line| !line.starts_with("| system call |"))
        .skip(2)
        .take_while(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        // Operation 0 is FUTEX_WAIT, and 0 is the length of no address. These below do not come back.
        let zeroes = cells[5].is_empty() || ["futex", "sendto"].contains(&name);
        let returns = !["exit", "exit_group", "rt_sigreturn", "ppoll"].contains(&name);
        (cells[2 + class] == "x" && zeroes && returns).then(|| name.to_owned())
    })
    .collect()
}

/// Requests that a class may make, of all numbers without arguments and all of KVM's with any.
const IOCTLS: [(&str, &[&str]); 3] = [
    (
        "vcpu",
        &[
            "0x4008ae6a", // KVM_SET_GSI_ROUTING
            "0x4020ae46", // KVM_SET_USER_MEMORY_REGION
            "0x4040ae79", // KVM_IOEVENTFD
            "0x5421",     // FIONBIO
            "0xae80",     // KVM_RUN
            "0xaead",     // KVM_KVMCLOCK_CTRL
        ],
    ),
    ("disk", &[]),
    (
        "main",
        &[
            "0x5421",     // FIONBIO
            "0x541b",     // FIONREAD
            "0x8030ae7c", // KVM_GET_CLOCK
            "0x8040ae9f", // KVM_GET_VCPU_EVENTS
            "0x8070ae9f", // KVM_GET_PIT2
            "0x8080aea1", // KVM_GET_DEBUGREGS
            "0x8090ae81", // KVM_GET_REGS
            "0x8138ae83", // KVM_GET_SREGS
            "0x8188aea6", // KVM_GET_XCRS
            "0x8400ae8e", // KVM_GET_LAPIC
            "0x9000aea4", // KVM_GET_XSAVE
            "0xaea3",     // KVM_GET_TSC_KHZ
            "0xc008ae88", // KVM_GET_MSRS
            "0xc208ae62", // KVM_GET_IRQCHIP
        ],
    ),
];

/// Errors of the kernel.
const EPERM: &str = "error 1";
const ENOENT: &str = "error 2";
const ESRCH: &str = "error 3";
const EBADF: &str = "error 9";
const ENOMEM: &str = "error 12";
const EACCES: &str = "error 13";
const ENODEV: &str = "error 19";
const EINVAL: &str = "error 22";
const EMFILE: &str = "error 24";
const EROFS: &str = "error 30";
const ENOSYS: &str = "error 38";
const EAFNOSUPPORT: &str = "error 97";
const ENETUNREACH: &str = "error 101";
const ECONNRESET: &str = "error 104";
const ETIMEDOUT: &str = "error 110";
const ECONNREFUSED: &str = "error 111";

/// Attacks by each thread, besides sweeps.
const ATTACKS: usize = 54;

/// What is not blocked, because it is another wall that holds.
fn expected(class: &str, what: &str) -> &'static str {
    match (class, what) {
        // To save a VM; nothing is there to be read.
        ("main", "ioctl KVM_GET_REGS") => EBADF,
        (_, "map a TiB") => ENOMEM,
        (_, what) if what.starts_with("have descriptors above") => EMFILE,
        // The window memory is sealed for whoever gets as far as asking.
        ("disk", "shrink the window memory" | "grow the window memory") => EPERM,
        // Pages become zero, which whoever maps them does not notice as a fault.
        ("disk", "punch the window memory") => "done",
        _ => "blocked",
    }
}

#[test]
fn threads_can_do_what_is_documented_and_nothing_else() {
    if !vm::has_kvm() {
        return;
    }
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let before = rustix::fs::fstat(&parts.window).expect("open").st_size;
    let log = Log::new();
    let vm = Vm::start_attacking(&parts, &[("CASEMATE_PROBE", "")], &log.0);
    vm.act(&Action::Ping);
    assert!(matches!(vm.event(), Event::State { .. }));
    let probes = Probes(log.read());

    for (index, (class, ioctls)) in IOCTLS.into_iter().enumerate() {
        let found = probes.sweep(class, "sweep");
        let found: BTreeSet<_> = found.into_iter().map(str::to_owned).collect();
        assert_eq!(found, documented(index), "{class}");
        let found = probes.sweep(class, "ioctls");
        assert_eq!(found, ioctls.iter().copied().collect(), "{class}");
        let attempts = probes.attempts(class);
        assert_eq!(attempts.len(), ATTACKS, "{attempts:?}");
        for (what, outcome) in attempts {
            assert_eq!(outcome, expected(class, what), "{class}: {what}");
            if let Some(highest) = what.strip_prefix("have descriptors above ") {
                let highest: u32 = highest.parse().expect("a number");
                assert!(highest < 2048, "{highest}");
            }
        }
    }
    // Whoever maps the window memory too never faults on it.
    let window = rustix::fs::fstat(&parts.window).expect("open").st_size;
    assert_eq!(window, before);
    let seals = rustix::fs::fcntl_get_seals(&parts.window).expect("a memfd");
    let all =
        rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW | rustix::fs::SealFlags::SEAL;
    assert!(seals.contains(all), "{seals:?}");

    // The guest still runs, and the VM ends as any other.
    vm::eventually("the greeting in the window memory", || {
        vm::peek(&parts.window, 4) == payload::GREETING.to_le_bytes()
    });
    vm.act(&Action::Kill);
    assert_eq!(
        vm.event(),
        Event::Stopped {
            reason: StopReason::Killed
        }
    );
    assert_eq!(vm.wait(), Some(0));
}

/// Without any filter: nothing of the host is there, and nothing can be had back.
#[test]
fn the_walls_behind_the_filters_hold_by_themselves() {
    if !vm::has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let volume = folder.path().join("volume");
    fs::write(&volume, "secret").expect("room");
    // Somebody outside who would answer.
    let by_name = vm::Outside::listen(None);
    let by_path = vm::Outside::listen(Some(&folder.path().join("server")));
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let log = Log::new();
    let environment = [
        ("CASEMATE_PROBE", ""),
        ("CASEMATE_PROBE_ABSTRACT", &by_name.name),
        ("CASEMATE_PROBE_SERVER", &by_path.name),
        ("CASEMATE_PROBE_VOLUME", &volume.to_string_lossy()),
    ];
    let vm = Vm::start_attacking(&parts, &environment, &log.0);
    let probes = Probes(log.read());
    let outcome = |what: &str| probes.outcome("walls", what);
    for what in [
        "open /etc/passwd",
        "open /proc/self/mem",
        "open /proc/self/fd/3",
        "open /proc/1/environ",
        "open /proc/1/root/etc/passwd",
        "open /dev/kvm",
        "open /dev/null",
        "open /sys/kernel/uevent_helper",
        "open /run",
        "open a volume",
        "look at a volume",
    ] {
        assert_eq!(outcome(what), ENOENT, "{what}");
    }
    // Landlock lets not even the empty root be listed; without it that is harmless.
    let landlock = outcome("landlock") == "done";
    let root = if landlock { EACCES } else { "done" };
    assert_eq!(outcome("open /"), root);
    assert_eq!(outcome("open .."), root);
    for (what, expected) in [
        ("create /new", &[EACCES, EROFS][..]),
        ("make a device", &[EPERM, EACCES, EROFS]),
        // Another network: no such name, no path, no loopback device that is up.
        ("connect abstract", &[ECONNREFUSED, EPERM]),
        ("connect a path", &[ENOENT]),
        ("connect 127.0.0.1", &[EACCES, ENETUNREACH]),
        ("switch the loopback device on", &[EPERM]),
        // Namespaces do not divide this one on all kernels; nobody listens on the port, and the filters let no thread
        // have such a socket.
        (
            "connect the host's vsock",
            &[ENODEV, EAFNOSUPPORT, ECONNRESET, ETIMEDOUT, EPERM, EACCES],
        ),
        ("signal a process of the host", &[ESRCH]),
        ("trace a process of the host", &[ESRCH]),
        ("mount", &[EPERM]),
        ("make the root writable", &[EPERM]),
        ("unmount the root", &[EPERM]),
        ("chroot", &[EPERM]),
        ("another host name", &[EPERM]),
        ("be another user", &[EPERM, EINVAL]),
        ("leave groups", &[EPERM]),
        ("have capabilities back", &[EPERM]),
        ("have core files back", &[EPERM]),
        ("load a module", &[EPERM, ENOSYS]),
        ("join a namespace", &[EINVAL, EBADF, EPERM]),
        ("dumpable 0", &["done"]),
        ("bounding set has CAP_SYS_ADMIN 0", &["done"]),
    ] {
        assert!(
            expected.contains(&outcome(what)),
            "{what}: {}",
            outcome(what)
        );
    }
    assert!(by_name.nobody_came() && by_path.nobody_came());
    vm.act(&Action::Kill);
    assert_eq!(
        vm.event(),
        Event::Stopped {
            reason: StopReason::Killed
        }
    );
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn a_blocked_call_ends_the_vm_and_says_which_it_was() {
    if !vm::has_kvm() {
        return;
    }
    for (class, _) in IOCTLS {
        let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
        let log = Log::new();
        let signal = vm::end_of_attacking(&parts, &[("CASEMATE_PROBE_LAST", class)], &log.0);
        assert_eq!(signal, Some(libc::SIGSYS), "{class}");
        let said = log.read();
        let line = format!(
            "casemate-vmm: a {class} thread made a system call that is not allowed, number 41, \
             second argument 0x1; the VM is ended\n"
        );
        assert!(said.contains(&line), "{said}");
    }
}
