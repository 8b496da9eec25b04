//! More calls than anybody can mean: the limits hold, each caller has its answer, and other VMs are served meanwhile.

use std::{collections::BTreeSet, fs, thread};

use casemate_qrexec_wire::{Ident, Message, Target, ToAgent, ToBroker, Trigger, Version};

use crate::house::{Agent, Broker};

const POLICY: &str = "* * work vault allow notify=no\n* * vault work allow notify=no\n";

/// The calls of a VM that asks as fast as it can write.
const FLOOD: usize = 100_000;

/// Calls of one VM that wait or run, as the protocol's description says.
const MOST_CALLS: usize = 128;

/// Calls of a VM that does no harm, fewer than it may make at once.
const OTHERS: usize = 50;

fn trigger(ident: &str, target: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    ToBroker::Trigger(Trigger {
        claimed_source: Target::default(),
        target: Target::sanitise(target.as_bytes()),
        ident: Ident::new(ident).unwrap(),
        service: b"s".to_vec(),
    })
    .encode(Version::OURS, &mut frame)
    .unwrap();
    frame
}

/// Resident memory of the broker in KiB.
fn resident(broker: &Broker) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[test]
fn a_vm_that_floods_is_refused_and_keeps_nobody_else_waiting() {
    let broker = Broker::start(POLICY, &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    let before = resident(&broker);
    let flood = (0..FLOOD).flat_map(|number| trigger(&format!("F{number}"), "vault"));
    let flood: Vec<u8> = flood.collect();
    let mut writer = work.control.try_clone().unwrap();
    let writing = thread::spawn(move || {
        use std::io::Write;
        writer.write_all(&flood).unwrap();
    });

    // It reads none of its answers, so its flood cannot have ended; all of another VM's calls are served all the same.
    let mut served = 0;
    for number in 0..OTHERS {
        let ident = format!("V{number}");
        vault.trigger(&ident, "work", b"s");
        loop {
            match vault.next() {
                Some(ToAgent::Execute(..)) => served += 1,
                Some(ToAgent::Connect(_, of)) if of == Ident::new(&ident).unwrap() => break,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(!writing.is_finished(), "the flood was taken in");
    let during = resident(&broker);
    assert!(
        during < before + 32 * 1024,
        "{before} KiB before, {during} KiB after"
    );

    // Each of its calls has one answer.
    let (mut accepted, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let mut executed = 0;
    while accepted.len() + refused.len() < FLOOD {
        let is_new = match work.next() {
            Some(ToAgent::Connect(_, ident)) => accepted.insert(format!("{ident:?}")),
            Some(ToAgent::Refused(ident)) => refused.insert(format!("{ident:?}")),
            Some(ToAgent::Execute(..)) => {
                executed += 1;
                true
            }
            other => panic!("{other:?}"),
        };
        assert!(is_new, "an answer comes twice");
    }
    writing.join().unwrap();
    assert!(accepted.is_disjoint(&refused));
    assert_eq!(executed, OTHERS);
    assert!(accepted.len() <= MOST_CALLS, "{}", accepted.len());
    assert!(served <= accepted.len());
    let calls = broker.calls();
    let of = |source: &str| calls.iter().filter(|call| call.source == source).count();
    assert_eq!((of("work"), of("vault")), (accepted.len(), OTHERS));
    // Most were not even judged, and those that were are on record.
    let judged = broker.audit().len();
    assert!(
        (accepted.len() + OTHERS..FLOOD / 10).contains(&judged),
        "{judged}"
    );

    // When its VM goes, everything is free again.
    work.control.shutdown(std::net::Shutdown::Both).unwrap();
    vault.control.shutdown(std::net::Shutdown::Both).unwrap();
    broker.idle();
    work.again();
    work.hello(4);
    vault.again();
    vault.hello(4);
    work.trigger("S", "vault", b"s");
    vault.executes();
    work.connects("S");
}

#[test]
fn calls_whose_ends_never_come_take_half_of_the_places_at_most() {
    let broker = Broker::start(POLICY, &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    let mut accepted = Vec::new();
    for number in 0..MOST_CALLS + 8 {
        let ident = format!("H{number}");
        work.trigger(&ident, "vault", b"s");
        if number < MOST_CALLS {
            accepted.push((work.connects(&ident), vault.executes().0));
        } else {
            work.is_refused(&ident);
        }
    }
    assert_eq!(broker.calls().len(), MOST_CALLS);
    // Whom it calls calls whom it likes.
    for number in 0..OTHERS {
        let ident = format!("V{number}");
        vault.trigger(&ident, "work", b"s");
        work.executes();
        vault.connects(&ident);
    }
    // One that ends makes room for one.
    let (client, served) = accepted.pop().unwrap();
    vault.send(&ToBroker::Terminated(served));
    work.send(&ToBroker::Terminated(client));
    let calls = || broker.calls().len();
    crate::house::until("the end of a call", || calls() == MOST_CALLS - 1 + OTHERS);
    work.trigger("A", "vault", b"s");
    vault.executes();
    work.connects("A");
    work.trigger("B", "vault", b"s");
    work.is_refused("B");
}
