//! Every type of frame in every version, state and length, whole and cut at every byte; and random lists of operations.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use casemate_qrexec_session::{
    Broken, Caller, Failed, Heard, Port, Session, Streams, Transport, limits,
};
use casemate_qrexec_wire::{
    CommandLine, ControlDecoder, ExecParams, Ident, Message, Target, ToAgent, ToBroker, Trigger,
    Version,
};

/// Every type that there is, and the numbers beside them.
const TYPES: [u32; 19] = [
    0,
    0x18f,
    0x190,
    0x191,
    0x192,
    0x193,
    0x194,
    0x200,
    0x201,
    0x202,
    0x203,
    0x210,
    0x211,
    0x212,
    0x213,
    0x214,
    0x300,
    0x301,
    u32::MAX,
];

/// Around every bound that the protocol has, and what wraps around somewhere.
const LENGTHS: [u32; 32] = [
    0,
    1,
    3,
    4,
    5,
    7,
    8,
    9,
    31,
    32,
    33,
    95,
    96,
    97,
    127,
    128,
    129,
    159,
    160,
    161,
    4096,
    65_000,
    65_095,
    65_096,
    65_097,
    65_159,
    65_160,
    65_161,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff8,
    u32::MAX,
];

/// The specification's table: may an agent send this now? `version` is `None` before its HELLO.
fn is_allowed(version: Option<u32>, kind: u32, len: u32) -> bool {
    match (version, kind) {
        (None, 0x300) => len == 4,
        (None, _) => false,
        (Some(2), 0x210) => len == 128,
        (Some(_), 0x211) => len == 8,
        (Some(3..), 0x212) => (97..=65_096).contains(&len),
        (Some(4..), 0x213) => (161..=65_160).contains(&len),
        _ => false,
    }
}

fn frame(message: &ToBroker, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(version, &mut bytes).unwrap();
    bytes
}

fn hello(number: u32) -> Vec<u8> {
    frame(&ToBroker::Hello(number), Version::OLDEST)
}

fn session(now: Instant) -> Session<()> {
    let mut session = Session::new(3, Transport::Link, 0, now);
    session.begin();
    session
}

/// A session whose agent has said hello; what was answered is sent.
fn open(version: u32, now: Instant) -> Session<()> {
    let mut session = session(now);
    session.feed(&hello(version));
    assert_eq!(session.hear(now), Ok(Some(Heard::Ready(version))));
    let waiting = session.outgoing().len();
    assert_eq!(waiting, 12);
    session.sent(waiting);
    session
}

#[test]
fn every_type_in_every_version_state_and_length() {
    let now = Instant::now();
    let mut rows = 0;
    for version in [None, Some(2), Some(3), Some(4)] {
        for kind in TYPES {
            for len in LENGTHS {
                let mut session = match version {
                    None => session(now),
                    Some(version) => open(version, now),
                };
                session.feed(&kind.to_le_bytes());
                assert_eq!(session.hear(now), Ok(None), "half a header is no error");
                session.feed(&len.to_le_bytes());
                let heard = session.hear(now);
                let what = format!("version {version:?}: {kind:#x} of {len} bytes: {heard:?}");
                rows += 1;
                if !is_allowed(version, kind, len) {
                    // The header alone shows it: a lying length is not waited for.
                    assert!(matches!(heard, Err(Broken::Malformed(_))), "{what}");
                    session.feed(&hello(4));
                    assert_eq!(session.hear(now), Ok(None), "nothing is heard after that");
                    assert_eq!(session.outgoing(), b"", "and nothing is said");
                    assert_eq!(
                        session.serve(0, command(), Streams::Connected, (), now),
                        Err(Failed::NoAgent)
                    );
                    session.verify_invariants();
                    continue;
                }
                assert_eq!(heard, Ok(None), "{what}");
                // A body of NULs: texts are empty, the HELLO is of version 0.
                session.feed(&vec![0; usize::try_from(len).unwrap()]);
                let heard = session.hear(now);
                match kind {
                    0x300 => assert!(heard.is_err(), "{what}"),
                    0x211 => {
                        let params = ExecParams { domain: 0, port: 0 };
                        assert_eq!(heard, Ok(Some(Heard::EndOfNothing(params))));
                    }
                    _ => assert!(matches!(heard, Ok(Some(Heard::Call(..)))), "{what}"),
                }
                session.verify_invariants();
            }
        }
    }
    assert_eq!(rows, 4 * 19 * 32);
}

fn command() -> CommandLine {
    CommandLine::new("user:true").unwrap()
}

fn trigger(number: u64) -> ToBroker {
    ToBroker::Trigger(Trigger {
        claimed_source: Target::default(),
        target: Target::sanitise(b"vault"),
        ident: Ident::new(&format!("S{number}")).unwrap(),
        service: b"copy+x".to_vec(),
    })
}

/// A stream that is cut at any byte leaves nothing behind, and its answers reach nobody on the next one.
#[test]
fn a_stream_may_end_at_every_byte_of_a_call() {
    let now = Instant::now();
    for number in [2, 3, 4] {
        let version = Version::negotiate(number).unwrap();
        let mut bytes = hello(number);
        bytes.extend(frame(&trigger(1), version));
        let called = bytes.len();
        let ended = ExecParams {
            domain: 4,
            port: 513,
        };
        bytes.extend(frame(&ToBroker::Terminated(ended), version));
        for cut in 0..=bytes.len() {
            let mut session = session(now);
            let mut caller = None;
            for byte in &bytes[..cut] {
                session.feed(std::slice::from_ref(byte));
                if let Some(Heard::Call(_, of)) = session.hear(now).unwrap() {
                    let port = session.connect(&of, 4, Port::Free, (), now);
                    assert_eq!(port, Ok(513));
                    caller = Some(of);
                }
                session.verify_invariants();
            }
            let runs = caller.is_some() && cut < bytes.len();
            assert_eq!(session.calls(), usize::from(runs), "cut at {cut}");
            assert_eq!(caller.is_some(), cut >= called);
            assert_eq!(session.end().len(), usize::from(runs));
            session.verify_invariants();
            session.begin();
            session.feed(&hello(number));
            session.hear(now).unwrap();
            let waiting = session.outgoing().len();
            session.sent(waiting);
            if let Some(caller) = caller {
                session.refuse(&caller).unwrap();
                let late = session.connect(&caller, 4, Port::Free, (), now);
                assert_eq!(late, Err(Failed::NoCaller));
                assert_eq!(session.outgoing(), b"", "that caller is not here");
            }
        }
    }
}

#[test]
fn an_agent_that_does_not_read_is_cut_off_and_not_read_from_before() {
    let now = Instant::now();
    let mut session = open(4, now);
    let mut said = 0;
    let broken = loop {
        session.feed(&frame(&trigger(said), Version::OURS));
        match session.hear(now) {
            Ok(Some(Heard::Call(_, caller))) => session.refuse(&caller).unwrap(),
            Ok(Some(Heard::TooFast)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(broken) => break broken,
        }
        said += 1;
        let held = session.outgoing().len();
        assert_eq!(session.may_read(), held < limits::OUTGOING_HIGH);
        session.verify_invariants();
    };
    assert_eq!(broken, Broken::Unread);
    // A refusal is 40 bytes.
    assert_eq!(said, u64::try_from(limits::MAX_OUTGOING / 40).unwrap());
    assert_eq!(session.outgoing(), b"");
}

/// What the test knows of one VM.
struct Side {
    session: Session<Rc<()>>,
    /// Reads what is sent to the agent.
    agent: ControlDecoder<ToAgent>,
    waiting: Vec<Caller>,
    /// Calls that the agent knows of.
    known: BTreeMap<u32, ExecParams>,
    legs: Rc<()>,
}

#[test]
fn any_list_of_operations_keeps_the_invariants() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for transport in [Transport::Link, Transport::Sockets] {
        for _ in 0..40 {
            operations(transport, &mut random);
        }
    }
}

fn operations(transport: Transport, random: &mut impl FnMut(u64) -> u64) {
    let mut now = Instant::now();
    let mut side = Side {
        session: Session::new(3, transport, u32::try_from(random(300)).unwrap(), now),
        agent: ControlDecoder::default(),
        waiting: Vec::new(),
        known: BTreeMap::new(),
        legs: Rc::new(()),
    };
    let mut begun = false;
    for number in 0..400 {
        now += Duration::from_millis(random(40));
        match random(12) {
            0 if random(8) == 0 || !begun => {
                let _offers = side.session.end();
                side.session.begin();
                (side.agent, side.waiting) = (ControlDecoder::default(), Vec::new());
                side.known.clear();
                side.session.feed(&hello(4));
                begun = true;
            }
            0..=3 if begun => side.session.feed(&frame(&trigger(number), Version::OURS)),
            4 if begun && !side.known.is_empty() => {
                let (port, params) = side.known.pop_first().unwrap();
                assert_eq!(port, params.port);
                side.session
                    .feed(&frame(&ToBroker::Terminated(params), Version::OURS));
            }
            5 => {
                let leg = Rc::clone(&side.legs);
                let _place = side.session.serve(
                    u32::try_from(random(5)).unwrap(),
                    command(),
                    Streams::Connected,
                    leg,
                    now,
                );
            }
            6 | 7 if !side.waiting.is_empty() => {
                let caller = side.waiting.swap_remove(0);
                let port = match transport {
                    Transport::Link => Port::Free,
                    Transport::Sockets => Port::Given(513 + u32::try_from(random(256)).unwrap()),
                };
                let leg = Rc::clone(&side.legs);
                let _place = side.session.connect(&caller, 9, port, leg, now);
            }
            8 if !side.waiting.is_empty() => {
                let caller = side.waiting.swap_remove(0);
                side.session.refuse(&caller).unwrap();
            }
            9 => {
                let _overdue = side.session.overdue(now);
            }
            _ => {}
        }
        while let Some(heard) = side.session.hear(now).unwrap() {
            if let Heard::Call(_, caller) = heard {
                side.waiting.push(caller);
            }
        }
        if random(3) > 0 {
            let bytes = side.session.outgoing().to_vec();
            side.session.sent(bytes.len());
            side.agent.feed(&bytes);
            while let Some(message) = side.agent.take().unwrap() {
                if let ToAgent::Execute(params, _) | ToAgent::Connect(params, _) = message {
                    side.known.insert(params.port, params);
                }
            }
        }
        side.session.verify_invariants();
        // Whoever waits for the end of a leg waits exactly as long as its port is in use.
        assert_eq!(Rc::strong_count(&side.legs) - 1, side.session.calls());
    }
}
