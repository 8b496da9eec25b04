//! A vmm that attacks its own jail (feature `escape-probe`): what each class of thread can still do is exactly what the
//! documented table says, and what it cannot do ends it visibly.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _};

use casemate_vmm_control::{Action, Event};

use crate::jail::PROBE_MARK;
use crate::payload;
use crate::vm::{self, Parts, Vm};

const CLASSES: [&str; 3] = ["vcpu", "disk", "main"];

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

    /// What each class tried, without the sweep.
    fn attempts(&self, who: &str) -> BTreeSet<(&str, &str)> {
        let start = format!("{PROBE_MARK} {who} ");
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(&start))
            .filter(|rest| !rest.starts_with("sweep"))
            .filter_map(|rest| rest.rsplit_once(": "))
            .collect()
    }

    /// System calls that came back when made with zeroes; every thread of the class must say the same.
    fn sweep(&self, who: &str) -> BTreeSet<&str> {
        let start = format!("{PROBE_MARK} {who} sweep [");
        let found: BTreeSet<_> = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(&start)?.strip_suffix("]: done"))
            .collect();
        assert_eq!(found.len(), 1, "{found:?}\n{}", self.0);
        found
            .into_iter()
            .flat_map(|names| names.split(' '))
            .collect()
    }
}

fn read(mut log: fs::File) -> String {
    let mut text = String::new();
    log.rewind().expect("a file");
    log.read_to_string(&mut text).expect("text");
    text
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
        // Operation 0 is FUTEX_WAIT, and 0 is the length of no address. These do not come back.
        let zeroes = cells[5].is_empty() || ["futex", "sendto"].contains(&name);
        let returns = !["exit", "exit_group", "rt_sigreturn", "ppoll"].contains(&name);
        (cells[2 + class] == "x" && zeroes && returns).then(|| name.to_owned())
    })
    .collect()
}

#[test]
fn threads_can_do_what_is_documented_and_nothing_else() {
    if !vm::has_kvm() {
        return;
    }
    // Somebody outside who would answer.
    let (listener, name) = vm::listen_abstract();
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let log = tempfile::tempfile().expect("a file");
    let vm = Vm::start_attacking(&parts, &[("CASEMATE_PROBE_SOCKET", &name)], &log);
    vm.act(&Action::Ping);
    assert!(matches!(vm.event(), Event::State { .. }));
    let probes = Probes(read(log));

    for (index, class) in CLASSES.into_iter().enumerate() {
        let documented = documented(index);
        let found: BTreeSet<_> = probes.sweep(class).into_iter().map(str::to_owned).collect();
        assert_eq!(found, documented, "{class}");
        // The window memory is sealed for whoever gets as far as asking.
        let attempts = probes.attempts(class);
        assert_eq!(attempts.len(), 37, "{attempts:?}");
        for (what, outcome) in attempts {
            match (class, what) {
                ("disk", "shrink the window memory" | "grow the window memory") => {
                    assert_eq!(outcome, "error 1", "{what}");
                }
                // Pages become zero, which whoever maps them does not notice as a fault.
                ("disk", "punch the window memory") => assert_eq!(outcome, "done", "{what}"),
                _ => assert_eq!(outcome, "blocked", "{class} could {what}"),
            }
        }
    }

    // Behind the filter: nothing of the host is there.
    const ENOENT: &str = "error 2";
    for path in [
        "/etc/passwd",
        "/proc/self/mem",
        "/proc/1/environ",
        "/dev/kvm",
        "/dev/null",
        "/run",
    ] {
        assert_eq!(
            probes.outcome("walls", &format!("open {path}")),
            ENOENT,
            "{path}"
        );
    }
    // Landlock lets not even the empty root be listed; without it that is harmless.
    let root = if probes.outcome("walls", "landlock") == "done" {
        "error 13"
    } else {
        "done"
    };
    assert_eq!(probes.outcome("walls", "open /"), root);
    assert_eq!(probes.outcome("walls", "open .."), root);
    let created = probes.outcome("walls", "create /new");
    assert!(["error 13", "error 30"].contains(&created), "{created}");
    // Another network: no such name, no loopback device that is up.
    let connected = probes.outcome("walls", "connect abstract");
    assert!(["error 111", "error 1"].contains(&connected), "{connected}");
    let connected = probes.outcome("walls", "connect 127.0.0.1");
    assert!(
        ["error 13", "error 101"].contains(&connected),
        "{connected}"
    );
    assert_eq!(
        probes.outcome("walls", "signal process 1 of the host"),
        "error 3"
    );
    assert_eq!(probes.outcome("walls", "mount"), "error 1");
    assert_eq!(probes.outcome("walls", "dumpable 0"), "done");
    assert!(vm::nobody_came(&listener));

    // The guest still runs.
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn a_blocked_call_ends_the_vm_and_says_which_it_was() {
    if !vm::has_kvm() {
        return;
    }
    for class in CLASSES {
        let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
        let log = tempfile::tempfile().expect("a file");
        let signal = vm::end_of_attacking(&parts, &[("CASEMATE_PROBE_LAST", class)], &log);
        assert_eq!(signal, Some(libc::SIGSYS), "{class}");
        let said = read(log);
        let line = format!(
            "casemate-vmm: a {class} thread made a system call that is not allowed, number 41, \
             second argument 0x1; the VM is ended\n"
        );
        assert!(said.ends_with(&line), "{said}");
    }
}
