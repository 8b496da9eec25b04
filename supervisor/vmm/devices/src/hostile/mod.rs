//! Hostile drivers against every queue, through the real transport: tables B1 to B3 of the threat model.
//!
//! A case is an attack; one of B1 or B2 is run on each of eleven queues (blk, net tx and rx, vsock tx and rx, console, rng,
//! balloon, snd control, tx and rx), one of B3 on the queue that it is meant for. Its name says row, queue and attack: `B2-3/blk/wraps_first`.
//! After each:
//!
//! * nothing has panicked, and the device came to rest;
//! * every chain was answered once, or the device says that it needs a reset;
//! * no byte of guest memory has changed but used rings and writable buffers of the attack itself, and none next to it;
//! * the next good request is served, by the same device or after the reset that it asked for; and by one that was reset.

mod arena;
mod chains;
mod exits;
mod machine;
mod msix;
mod registers;
mod requests;
mod rings;
mod sound;
mod status;
mod target;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::machine::Machine;
use self::target::{TARGETS, Target};

/// One attack.
struct Case {
    /// The row of the threat model, and a name of its own.
    row: &'static str,
    name: String,
    /// Whether it begins with a device that is working.
    started: bool,
    /// Event indexes are negotiated; these features are not.
    event_index: bool,
    without: u64,
    /// Every queue, when there is none.
    only: Option<Target>,
    attack: Box<dyn Fn(&mut Machine)>,
}

impl Case {
    /// An attack on a working device.
    fn new(
        row: &'static str,
        name: impl Into<String>,
        attack: impl Fn(&mut Machine) + 'static,
    ) -> Self {
        Self {
            row,
            name: name.into(),
            started: true,
            event_index: false,
            without: 0,
            only: None,
            attack: Box::new(attack),
        }
    }

    /// Begins with a device that nobody has started.
    fn before_start(mut self) -> Self {
        self.started = false;
        self
    }

    fn with_event_index(mut self) -> Self {
        self.event_index = true;
        self
    }

    fn without(mut self, features: u64) -> Self {
        self.without = features;
        self
    }

    /// Meant for one queue.
    fn only(mut self, target: Target) -> Self {
        self.only = Some(target);
        self
    }

    fn is_for(&self, target: Target) -> bool {
        self.only.is_none_or(|only| only == target)
    }

    fn full_name(&self, target: Target) -> String {
        format!("{}/{}/{}", self.row, target.name(), self.name)
    }

    fn run(&self, target: Target) {
        let mut machine = Machine::new(target);
        machine.event_index = self.event_index;
        machine.without |= self.without;
        if self.started {
            machine.start();
        }
        (self.attack)(&mut machine);
        if self.started {
            machine.work();
            machine.assert_serves();
        } else {
            machine.start();
            machine.good();
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = chains::cases();
    cases.extend(exits::cases());
    cases.extend(rings::cases());
    cases.extend(requests::cases());
    cases.extend(sound::cases());
    cases.extend(status::cases());
    cases.extend(msix::cases());
    cases
}

/// Runs every case on one queue and names all that fail.
fn check(target: Target) {
    let failed: Vec<String> = cases()
        .iter()
        .filter(|case| case.is_for(target))
        .filter(|case| catch_unwind(AssertUnwindSafe(|| case.run(target))).is_err())
        .map(|case| case.full_name(target))
        .collect();
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

#[test]
fn blk_survives_every_case() {
    check(Target::Blk);
}

#[test]
fn net_tx_survives_every_case() {
    check(Target::NetTx);
}

#[test]
fn net_rx_survives_every_case() {
    check(Target::NetRx);
}

#[test]
fn vsock_tx_survives_every_case() {
    check(Target::VsockTx);
}

#[test]
fn vsock_rx_survives_every_case() {
    check(Target::VsockRx);
}

#[test]
fn console_survives_every_case() {
    check(Target::Console);
}

#[test]
fn rng_survives_every_case() {
    check(Target::Rng);
}

#[test]
fn balloon_survives_every_case() {
    check(Target::Balloon);
}

#[test]
fn snd_control_survives_every_case() {
    check(Target::SndControl);
}

#[test]
fn snd_tx_survives_every_case() {
    check(Target::SndTx);
}

#[test]
fn snd_rx_survives_every_case() {
    check(Target::SndRx);
}

/// Fewer means that rows were lost.
const LEAST: usize = 4000;

#[test]
fn the_table_is_whole() {
    let cases = cases();
    let mut names = Vec::new();
    for target in TARGETS {
        let own = cases.iter().filter(|case| case.is_for(target));
        let before = names.len();
        names.extend(own.map(|case| case.full_name(target)));
        println!("{}: {} cases", target.name(), names.len() - before);
    }
    println!("{} cases", names.len());
    let unique: BTreeSet<&String> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "names are unique");
    let rows: BTreeSet<&str> = cases.iter().map(|case| case.row).collect();
    assert_eq!(rows.len(), 18, "{rows:?}");
    assert!(names.len() >= LEAST, "{}", names.len());
}
