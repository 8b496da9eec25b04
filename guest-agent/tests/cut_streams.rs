//! The data stream between two VMs is cut, or one of its ends killed, at each frame in each direction, with peers of every
//! version: the tool ends with the code that is specified, both hosts are told, and no process is left.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::Child,
    thread::{self, JoinHandle},
};

use support::{
    EXIT,
    between::{
        Between, Carry, Passed,
        Then::{self, Cut, Swallow},
        Way::{self, Back, There},
    },
    children, kill,
    pair::Pair,
    served_by, wait_until,
};

const VERSIONS: [u32; 3] = [2, 3, 4];

/// Frames of an uncut call: HELLO, input, its end; HELLO, output twice, error, two ends, the code.
const FRAMES: [(Way, usize); 2] = [(There, 3), (Back, 7)];

/// Frames that come back before any end.
const SPOKEN: usize = 4;

/// Ends by itself, with this code.
const ENDS: &str = "#!/bin/sh\necho one\necho two >&2\ncat\nexit 7\n";

/// Does not, whatever becomes of its input.
const STAYS: &str = "#!/bin/sh\necho one\necho two >&2\ncat\nexec sleep 1000\n";

fn pair() -> Pair {
    let pair = Pair::start();
    pair.callee.service("test.Ends", ENDS);
    pair.callee.service("test.Stays", STAYS);
    pair
}

/// Processes of the callee's services.
fn services(pair: &Pair) -> Vec<u32> {
    served_by(pair.callee.pid())
}

fn call(pair: &mut Pair, service: &str, carry: Carry) -> Between {
    Between::call(pair, &["qrexec-client-vm", "vault", service], carry)
}

/// Gives the tool its input when the service has spoken, so that no two pieces of output become one frame. Ends with the
/// tool's output, which it returns.
fn talk(tool: &mut Child) -> JoinHandle<String> {
    let mut input = tool.stdin.take().unwrap();
    let mut output = BufReader::new(tool.stdout.take().unwrap());
    thread::spawn(move || {
        let mut heard = String::new();
        if output.read_line(&mut heard).unwrap() > 0 {
            // A tool whose stream was cut takes none.
            let _ = input.write_all(b"words\n");
        }
        drop(input);
        output.read_to_string(&mut heard).unwrap();
        heard
    })
}

fn stops(then: Then) -> impl Iterator<Item = (u32, Way, usize, Carry)> {
    VERSIONS.into_iter().flat_map(move |version| {
        FRAMES.into_iter().flat_map(move |(way, frames)| {
            (0..frames).map(move |count| {
                let carry = Carry {
                    stop: Some((way, count, then)),
                    ..Carry::all(version)
                };
                (version, way, count, carry)
            })
        })
    })
}

#[test]
fn an_uncut_call_has_the_frames_that_the_others_are_cut_at() {
    let mut pair = pair();
    for version in VERSIONS {
        let mut between = call(&mut pair, "test.Ends", Carry::all(version));
        let talk = talk(&mut between.tool);
        assert_eq!(between.tool.wait().unwrap().code(), Some(7));
        assert_eq!(talk.join().unwrap(), "one\nwords\n");
        let passed = between.over(&mut pair, true);
        let count = |way| passed.iter().filter(|passed| passed.way == way).count();
        // The tool may answer the code with another end of its input.
        assert!(matches!(count(There), 3 | 4), "{passed:?}");
        assert_eq!(count(Back), 7, "{passed:?}");
        let last = passed.iter().rfind(|passed| passed.way == Back);
        assert!(matches!(last, Some(Passed { kind: EXIT, .. })), "{last:?}");
    }
}

#[test]
fn a_stream_that_is_cut_at_any_frame_is_a_lost_call_at_both_ends() {
    let mut pair = pair();
    for (version, way, count, carry) in stops(Cut) {
        for service in ["test.Ends", "test.Stays"] {
            // The ends of a service that stays never come.
            if service == "test.Stays" && way == Back && count >= SPOKEN {
                continue;
            }
            let what = format!("{service}, version {version}, {way:?} after {count}");
            let mut between = call(&mut pair, service, carry);
            let talk = talk(&mut between.tool);
            assert_eq!(between.tool.wait().unwrap().code(), Some(255), "{what}");
            let heard = talk.join().unwrap();
            assert!("one\nwords\n".starts_with(&heard), "{what}: {heard}");
            if way == Back {
                let words = ["", "", "", "one\n", "one\nwords\n"][count.min(4)];
                assert!(heard.starts_with(words), "{what}: {heard}");
            }
            between.over(&mut pair, true);
            wait_until(&what, || services(&pair).is_empty());
        }
    }
    let pid = pair.callee.pid();
    wait_until("no process is left", || children(pid).is_empty());
    is_well(&mut pair);
}

#[test]
fn a_tool_that_is_killed_at_any_frame_takes_its_service_along() {
    let mut pair = pair();
    for (version, way, count, carry) in stops(Swallow) {
        if way == Back && count > SPOKEN {
            continue;
        }
        let what = format!("version {version}, {way:?} after {count}");
        let mut between = call(&mut pair, "test.Stays", carry);
        let talk = talk(&mut between.tool);
        between.after(way, count);
        between.tool.kill().unwrap();
        between.tool.wait().unwrap();
        talk.join().unwrap();
        between.over(&mut pair, true);
        wait_until(&what, || services(&pair).is_empty());
    }
    is_well(&mut pair);
}

#[test]
fn a_service_that_is_killed_at_any_frame_gives_its_signal() {
    let mut pair = pair();
    for version in VERSIONS {
        for (way, count) in [(There, 2), (There, 3), (Back, 2), (Back, 3), (Back, 4)] {
            let what = format!("version {version}, {way:?} after {count}");
            let mut between = call(&mut pair, "test.Stays", Carry::all(version));
            let talk = talk(&mut between.tool);
            between.after(way, count);
            // The words may be on their way before there is anybody to read them.
            wait_until(&what, || !services(&pair).is_empty());
            // What is between two programs at a look is not seen by it, but by the next one.
            wait_until(&what, || {
                services(&pair).into_iter().for_each(kill);
                between.tool.try_wait().unwrap().is_some()
            });
            assert_eq!(between.tool.wait().unwrap().code(), Some(137), "{what}");
            talk.join().unwrap();
            between.over(&mut pair, true);
            assert_eq!(services(&pair), [] as [u32; 0], "{what}");
        }
    }
    is_well(&mut pair);
}

#[test]
fn an_agent_that_is_killed_at_any_frame_is_a_lost_call() {
    // The agent is started anew each time, so the versions, which its end does not depend on, take turns.
    for (number, (_, way, count, carry)) in stops(Swallow).take(10).enumerate() {
        let mut pair = pair();
        let carry = Carry {
            version: VERSIONS[number % 3],
            ..carry
        };
        let what = format!("version {}, {way:?} after {count}", carry.version);
        let mut between = call(&mut pair, "test.Ends", carry);
        let talk = talk(&mut between.tool);
        between.after(way, count);
        pair.callee.kill();
        assert_eq!(between.tool.wait().unwrap().code(), Some(255), "{what}");
        talk.join().unwrap();
        between.over(&mut pair, false);
        // Nobody is left to end it, but its input ends.
        wait_until(&what, || services(&pair).is_empty());
    }
}

/// Both agents serve on.
fn is_well(pair: &mut Pair) {
    let mut tool = pair.call(&["qrexec-client-vm", "vault", "test.Ends"]);
    let talk = talk(&mut tool);
    assert_eq!(tool.wait().unwrap().code(), Some(7));
    assert_eq!(talk.join().unwrap(), "one\nwords\n");
    pair.over();
}
