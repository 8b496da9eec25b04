//! Groups in made-up trees, and in the machine's own of version 1 where we may write there.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use casemate_vm::{Label, VmKind, VmName, VmSpec};

use super::{
    Limiter, Limits, Tree, V1,
    find::{Found, take_over},
};

const LIMITS: Limits = Limits {
    memory_high: 48 << 20,
    memory_max: 64 << 20,
    processes: 20,
    cpu_weight: 50,
};

fn name() -> VmName {
    format!("t{}", std::process::id()).parse().unwrap()
}

#[test]
fn our_groups_are_found_by_controller_and_mount() {
    let hybrid = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
         31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
         32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
         33 30 0:29 /docker/1 /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
         34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let groups = "4:memory:/user\n3:cpuacct,cpu:/\n2:pids:/docker/1/a:b\n0::/user.slice/x.scope\n";
    let found = Found::parse(groups, hybrid);
    assert_eq!(
        found,
        Found {
            v2: Some(PathBuf::from("/sys/fs/cgroup/unified/user.slice/x.scope")),
            v1: Some(V1 {
                memory: "/sys/fs/cgroup/memory/user".into(),
                pids: "/sys/fs/cgroup/pids/a:b".into(),
                cpu: "/sys/fs/cgroup/cpu,cpuacct/".into(),
            }),
        }
    );
    // Not mounted, or a group above what the mount shows.
    assert_eq!(Found::parse(groups, ""), Found::default());
    assert_eq!(Found::parse("2:pids:/\n", hybrid), Found::default());
}

/// A directory with the files of a group of version 2.
fn fake_group(controllers: &str) -> tempfile::TempDir {
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("cgroup.controllers"), controllers).unwrap();
    fs::write(own.path().join("cgroup.subtree_control"), "").unwrap();
    let leaf = own.path().join("casemate-supervisor");
    fs::create_dir(&leaf).unwrap();
    fs::write(leaf.join("cgroup.procs"), "").unwrap();
    own
}

#[test]
fn a_delegated_group_is_taken_over_and_one_that_is_not_says_why() {
    let own = fake_group("cpuset cpu io memory pids\n");
    let path = own.path().to_owned();
    for from in [path.clone(), path.join("casemate-supervisor")] {
        let tree = take_over(from, 77).unwrap();
        assert!(matches!(tree, Tree::V2(found) if found == path));
    }
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap();
    assert_eq!(read("casemate-supervisor/cgroup.procs"), "77");
    assert_eq!(read("cgroup.subtree_control"), "+memory +pids +cpu");

    let poor = fake_group("memory pids\n");
    let why = take_over(poor.path().to_owned(), 77).unwrap_err();
    assert!(
        why.contains("no controllers cpu") && why.contains("Delegate=yes"),
        "{why}"
    );
    let shared = fake_group("memory pids cpu\n");
    fs::remove_file(shared.path().join("cgroup.subtree_control")).unwrap();
    let why = take_over(shared.path().to_owned(), 77).unwrap_err();
    assert!(why.contains("not ours alone"), "{why}");
}

#[test]
fn limits_follow_the_size_of_the_vm() {
    let spec = VmSpec::new(VmKind::App, "debian-12".parse().unwrap(), Label::Blue);
    let limits = Limits::of(&spec, 1 << 20);
    let least = spec.memory_mib.bytes() + (1 << 20);
    assert!(limits.memory_high > least && limits.memory_max > limits.memory_high);
    assert_eq!((limits.processes, limits.cpu_weight), (128, 100));
    let tree = Tree::V2("/own".into());
    let files: Vec<_> = tree
        .settings(&limits)
        .into_iter()
        .flat_map(|(_, settings)| settings)
        .map(|(file, _)| file)
        .collect();
    assert_eq!(
        files,
        [
            "memory.high",
            "memory.max",
            "memory.oom.group",
            "pids.max",
            "cpu.weight"
        ]
    );
}

/// Groups of this machine, where this process may make some; a machine without is said to be skipped.
fn real() -> Option<Limiter> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Not version 2: taking over the group of whoever runs the tests is not ours to do.
    let limiter = Found::parse(&groups, &mounts).v1.map(|v1| Limiter {
        tree: Tree::V1(v1),
        house: 0,
    });
    let usable = limiter.filter(|limiter| match limiter.make(&name(), &LIMITS) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            limiter.remove(&name());
            false
        }
    });
    if usable.is_none() {
        println!("skipped: no control groups of version 1 that can be written here");
    }
    usable
}

/// Runs a script in the group; how it ended, and what it said.
fn run_in(limiter: &Limiter, script: &str) -> std::process::Output {
    let group = limiter.make(&name(), &LIMITS).unwrap();
    let enter: String = group
        .entrances
        .iter()
        .map(|entrance| format!("echo 0 > {};", entrance.display()))
        .collect();
    let output = Command::new("sh")
        .args(["-c", &format!("{enter} {script}")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    limiter.remove(&name());
    output
}

#[test]
fn memory_beyond_the_limit_ends_only_who_takes_it() {
    let Some(limiter) = real() else { return };
    let output = run_in(
        &limiter,
        "exec head -c 300m /dev/zero | tail -c 299m > /dev/null",
    );
    // `tail` keeps all of it in memory; the pipe's end is that of `tail`.
    assert!(
        output.status.signal() == Some(9) || output.status.code() == Some(137),
        "{output:?}"
    );
    // We are outside and live; a group of the same name serves again.
    let output = run_in(&limiter, "echo well");
    assert_eq!(output.stdout, b"well\n");
}

#[test]
fn processes_beyond_the_limit_cannot_be_made() {
    let Some(limiter) = real() else { return };
    // What it has made would keep its output open.
    let script = "made=; trap 'kill $made; wait' EXIT; i=0; \
         while [ $i -lt 40 ]; do sleep 100 & made=\"$made $!\"; i=$((i + 1)); done; echo made all";
    let output = run_in(&limiter, script);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("fork"), "{errors}");
    assert_ne!(output.stdout, b"made all\n");
}
