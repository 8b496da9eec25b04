//! A jailed VM with every device, seen from outside: what its process holds, sees and may do.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::AsFd as _;

use casemate_vmm_control::Action;

use crate::audit::{self, Process};
use crate::payload;
use crate::vm::{self, Parts, Vm};

/// Nobody, where the test may become it: what holds for root must hold for a user.
const NOBODY: u32 = 65534;

/// Every device that there is, running.
fn full(user: Option<u32>) -> (Parts, Vm) {
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let vm = Vm::start_as_user(&parts, user);
    vm::eventually("the greeting in the window memory", || {
        vm::peek(&parts.window, 4) == payload::GREETING.to_le_bytes()
    });
    (parts, vm)
}

/// As whom VMs are tried: ourselves, and as root a user as well.
fn users() -> Vec<Option<u32>> {
    if rustix::process::geteuid().is_root() {
        vec![None, Some(NOBODY)]
    } else {
        vec![None]
    }
}

/// Eventfds of a virtio device: a doorbell and an interrupt a queue, an interrupt for its configuration, and what the
/// device has of its own.
const fn eventfds(queues: usize, own: usize) -> usize {
    2 * queues + 1 + own
}

/// What [`Parts::full`] makes of a vmm, exactly: type and path of each open file, its flags, and how many there are.
/// A device with another number of queues changes it; anything else is a hole.
fn expected(vcpus: usize) -> BTreeMap<audit::Open, usize> {
    const DISKS: usize = 2;
    let workers = vcpus.min(4); // of each disk, with a queue each
    let loops = 1 + DISKS * workers + 1; // the main one, and one for what is plugged in
    let eventfds = loops
        + DISKS * eventfds(workers, 0) // blk
        + eventfds(2, 0) // net
        + eventfds(4, 1) // balloon, woken by the host
        + eventfds(1, 0) // rng
        + eventfds(2, 0) // console
        + eventfds(3, 1) // vsock, woken by new links
        + eventfds(4, 1) // sound, woken by grants
        + 5 // lines: serial port, power button, hot-plug, generation; and news of plugs
        + 16; // interrupts of what is plugged in later
    let mut open = BTreeMap::new();
    let mut is = |what: &str, flags: &str, count: usize| {
        let before = open.insert(audit::Open::new(what, flags), count);
        assert_eq!(before, None, "named twice: {what} {flags}");
    };
    is("/dev/null", "rw", 3); // standard input, output and error: exec cannot happen
    is("/memfd:window", "rw cloexec", 1);
    is("/memfd:log", "rw cloexec", 1);
    is("/memfd:overlay", "rw cloexec", 1);
    is("pagemap", "r cloexec", 1); // which of its own pages it has touched, for snapshots
    is("/memfd:base", "r cloexec", 1);
    is("/memfd:installer", "r cloexec", 1);
    is("anon_inode:kvm-vm", "rw cloexec", 1);
    is("anon_inode:kvm-vcpu", "rw cloexec", vcpus);
    is("anon_inode:[eventpoll]", "rw cloexec", loops);
    is("anon_inode:[timerfd]", "rw cloexec", 2); // rng, sound
    is("anon_inode:[eventfd]", "rw nonblock cloexec", eventfds);
    // Listening and connected control socket; a cable, a mixer, and two links that wait for the guest's driver.
    is("socket:unix/seqpacket", "rw nonblock cloexec", 2);
    is("socket:unix/seqpacket", "rw cloexec", 4);
    open
}

#[test]
fn it_holds_exactly_what_its_devices_need() {
    if !vm::has_kvm() {
        return;
    }
    for user in users() {
        let (_parts, vm) = full(user);
        let process = Process::of(vm.pid);
        match process.open_files() {
            Ok(open) => assert_eq!(open, expected(2), "as {user:?}"),
            // Its own user is not let in; only root can look further.
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
                assert!(!rustix::process::geteuid().is_root());
            }
        }
        vm.act(&Action::Kill);
        assert_eq!(vm.wait(), Some(0));
    }
}

/// What a careless parent leaves open and in the environment stays outside.
#[test]
fn it_takes_nothing_that_was_not_meant_for_it() {
    if !vm::has_kvm() {
        return;
    }
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let open = |path: &str| std::fs::File::open(path).expect("it is there");
    let (near, far) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let (secret, root, own) = (open("/etc/passwd"), open("/"), open("/proc/self"));
    let pipe = std::io::pipe().expect("a pipe");
    let left = [
        secret.as_fd(),
        root.as_fd(),
        own.as_fd(),
        near.as_fd(),
        pipe.1.as_fd(),
    ];
    let environment = [
        ("TMPDIR", "/proc/self/root"),
        ("HOME", "/"),
        ("PATH", ""),
        ("XDG_RUNTIME_DIR", "../../.."),
        ("LD_LIBRARY_PATH", "/proc/self/fd"),
        ("MALLOC_TRACE", "/new"),
        ("RUST_LOG", "\u{1b}[2J\n=,=,=trace"),
        ("RUST_BACKTRACE", "full"),
    ];
    let vm = Vm::start_polluted(&parts, &environment, &left);
    drop((near, pipe.1));
    // Nobody else has the other ends.
    let mut rest = Vec::new();
    assert_eq!((&far).read_to_end(&mut rest).expect("a stream"), 0);
    assert_eq!((&pipe.0).read_to_end(&mut rest).expect("a pipe"), 0);
    if let Ok(open) = Process::of(vm.pid).open_files() {
        assert_eq!(open, expected(2));
    }
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn every_task_has_lost_every_right() {
    if !vm::has_kvm() {
        return;
    }
    for user in users() {
        let (_parts, vm) = full(user);
        let process = Process::of(vm.pid);
        let tasks = process.tasks();
        for name in ["casemate-vmm", "vcpu0", "vcpu1", "disk0", "disk1"] {
            assert!(tasks.iter().any(|task| task.name() == name), "no {name}");
        }
        // The host's kernel may have added threads of its own to the process: they inherit the walls.
        for task in &tasks {
            for (field, value) in [
                ("NoNewPrivs", "1"),
                ("Seccomp", "2"),
                ("CapEff", "0000000000000000"),
                ("CapPrm", "0000000000000000"),
                ("CapInh", "0000000000000000"),
                ("CapBnd", "0000000000000000"),
                ("CapAmb", "0000000000000000"),
                ("Groups", ""),
            ] {
                let found = task.status(field);
                let name = task.name();
                // A user cannot leave groups, which mean nothing but in files that are open.
                if field == "Groups" && !rustix::process::geteuid().is_root() {
                    continue;
                }
                assert_eq!(found.as_deref(), Some(value), "{field} of {name}");
            }
            for namespace in ["user", "mnt", "net", "pid", "ipc", "uts", "cgroup"] {
                // Without rights over it the link cannot be read, which says the same.
                let theirs = task.namespace(namespace);
                assert_ne!(theirs, audit::own_namespace(namespace), "{namespace}");
            }
        }
        vm.act(&Action::Kill);
        assert_eq!(vm.wait(), Some(0));
    }
}

#[test]
fn it_can_be_a_user_of_its_own() {
    // An ordinary user needs numbers that the host has granted.
    if !vm::has_kvm() || !rustix::process::geteuid().is_root() {
        return;
    }
    const OWN: (u32, u32) = (3_000_003, 3_100_003);
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let vm = Vm::start_with_own_user(&parts, OWN.0, OWN.1);
    let process = Process::of(vm.pid);
    for task in process.tasks() {
        let all = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
        assert_eq!(task.status("Uid"), Some(all(OWN.0)));
        assert_eq!(task.status("Gid"), Some(all(OWN.1)));
        assert_eq!(task.status("Groups").as_deref(), Some(""));
        for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(
                task.status(set).as_deref(),
                Some("0000000000000000"),
                "{set}"
            );
        }
    }
    for (map, id) in [("uid_map", OWN.0), ("gid_map", OWN.1)] {
        let map = process.read(map).expect("readable by all");
        let numbers: Vec<_> = map.split_whitespace().collect();
        assert_eq!(numbers, [id.to_string(), id.to_string(), "1".to_owned()]);
    }
    // It does not own its process, so the kernel does not let it see which pages it has: a snapshot looks at all of them.
    let mut open = expected(2);
    open.remove(&audit::Open::new("pagemap", "r cloexec"));
    assert_eq!(process.open_files().expect("root may look"), open);
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn it_sees_an_empty_root_and_leaves_no_dump() {
    if !vm::has_kvm() {
        return;
    }
    for user in users() {
        let (_parts, vm) = full(user);
        let process = Process::of(vm.pid);
        let id = user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        // One user and one group, itself.
        for map in ["uid_map", "gid_map"] {
            let map = process.read(map).expect("readable by all");
            let numbers: Vec<_> = map.split_whitespace().collect();
            assert_eq!(numbers, [id.to_string(), id.to_string(), "1".to_owned()]);
        }
        let limits = process.read("limits").expect("readable by all");
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        };
        for (name, most) in [("Max core file size", 0), ("Max open files", 2048)] {
            let (soft, hard) = limit(name).expect("a known limit");
            for value in [soft, hard] {
                let value: u64 = value.parse().unwrap_or(u64::MAX);
                assert!(value <= most, "{name}: {value}");
            }
        }
        // Who is not dumpable belongs to root, whoever it runs as.
        assert_eq!(process.owner(), 0);
        if id != 0 {
            assert_eq!(
                Process::of(rustix::process::getpid()).owner(),
                rustix::process::geteuid().as_raw()
            );
        }
        if let Ok(mounts) = process.read("mountinfo") {
            assert_eq!(mounts.lines().count(), 1, "{mounts}");
            let fields: Vec<_> = mounts.split_whitespace().collect();
            assert_eq!(fields[3..5], ["/", "/"], "{mounts}");
            for option in ["ro", "nosuid", "nodev", "noexec"] {
                assert!(
                    fields[5].split(',').any(|other| other == option),
                    "{mounts}"
                );
            }
            assert!(mounts.contains(" - tmpfs "), "{mounts}");
        }
        vm.act(&Action::Kill);
        assert_eq!(vm.wait(), Some(0));
    }
}

/// Memory of the process besides the guest's, in KiB: resident, and private and dirty.
fn own_memory(process: &Process, guest_kib: u64) -> Option<(u64, u64)> {
    let smaps = process.read("smaps").ok()?;
    let (mut resident, mut dirty, mut size) = (0, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let value = value.parse().unwrap_or(0);
        match name {
            "Size:" => size = value,
            // The guest's own is the only mapping of its size.
            _ if size >= guest_kib * 3 / 4 => {}
            "Rss:" => resident += value,
            "Private_Dirty:" => dirty += value,
            _ => {}
        }
    }
    Some((resident, dirty))
}

#[test]
fn a_vmm_is_small() {
    if !vm::has_kvm() {
        return;
    }
    let (_parts, vm) = full(None);
    // A build for debugging has more code; what is dirty is the same.
    let most = if cfg!(debug_assertions) {
        12 << 10
    } else {
        4 << 10
    };
    if own_memory(&Process::of(vm.pid), 64 << 10).is_some() {
        // What a start needs for a moment, such as the kernel's image, goes after it.
        vm::eventually("a small process", || {
            let (resident, dirty) = own_memory(&Process::of(vm.pid), 64 << 10).expect("as before");
            println!(
                "besides the guest's memory: {resident} KiB resident, {dirty} KiB private and dirty"
            );
            resident <= most && dirty <= 2560
        });
    }
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}

/// In front of every line of a build that attacks its own jail.
pub(crate) const PROBE_MARK: &str = "escape-probe:";

#[test]
fn a_build_that_attacks_its_jail_can_be_told_from_one_that_is_shipped() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_casemate-vmm")).expect("it was built");
    let mark = PROBE_MARK.as_bytes();
    let found = program.windows(mark.len()).any(|part| part == mark);
    assert_eq!(found, cfg!(feature = "escape-probe"));
}
