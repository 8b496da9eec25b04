//! Two VMs' sessions with the broker between them: what agents say, what policy answers, lost streams, time.
//!
//! Each step of an input is an operation and its numbers, a byte each. Of every call the test keeps what the broker keeps
//! of it, two legs that live as long as its ports, and of every caller whether it was answered.

use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use casemate_qrexec_session::{
    ADMIN_DOMAIN, Caller, Heard, Port, Session, Streams, Transport, limits,
};
use casemate_qrexec_wire::{
    CommandLine, ControlDecoder, ExecParams, Ident, Message as _, Target, ToAgent, ToBroker,
    Trigger, Version,
};

use crate::input::Input;

/// Domain numbers of the two.
const OWN: [u32; 2] = [3, 4];

struct Side {
    session: Session<Rc<()>>,
    /// Reads, as the agent does, what was sent on the present stream.
    agent: ControlDecoder<ToAgent>,
    /// Callers without an answer, of this stream and of those before.
    waiting: Vec<Caller>,
    /// Callers of the present stream so far, and answers to callers that the agent has read.
    callers: usize,
    answers: usize,
    /// What the agent was told of, to report the end of.
    known: Vec<ExecParams>,
    /// Every leg that this session was given.
    legs: Vec<Weak<()>>,
    broken: bool,
    resting: bool,
}

impl Side {
    fn new(own: u32, transport: Transport, start: u32, now: Instant) -> Self {
        Self {
            session: Session::new(own, transport, start, now),
            agent: ControlDecoder::default(),
            waiting: Vec::new(),
            callers: 0,
            answers: 0,
            known: Vec::new(),
            legs: Vec::new(),
            broken: false,
            resting: true,
        }
    }

    fn begin(&mut self, version: u32) {
        self.end();
        self.session.begin();
        self.resting = false;
        self.say(&ToBroker::Hello(version), Version::OLDEST);
    }

    fn end(&mut self) {
        let ports = self.session.end();
        assert!(ports.len() <= 256, "{ports:?}");
        self.agent = ControlDecoder::default();
        (self.callers, self.answers) = (0, 0);
        self.known.clear();
        (self.broken, self.resting) = (false, true);
    }

    fn say(&mut self, message: &ToBroker, version: Version) {
        let mut bytes = Vec::new();
        if message.encode(version, &mut bytes).is_ok() {
            self.session.feed(&bytes);
        }
    }

    fn leg(&mut self) -> Rc<()> {
        let leg = Rc::new(());
        self.legs.push(Rc::downgrade(&leg));
        leg
    }

    /// Everything that the agent has said until now is heard.
    fn hear(&mut self, now: Instant) {
        loop {
            match self.session.hear(now) {
                Ok(Some(Heard::Call(_, caller))) => {
                    self.callers += 1;
                    self.waiting.push(caller);
                }
                Ok(Some(Heard::TooFast)) => self.callers += 1,
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// The agent reads so many bytes.
    fn read(&mut self, count: usize) {
        let bytes = self.session.outgoing();
        let bytes = bytes
            .get(..count.min(bytes.len()))
            .unwrap_or_default()
            .to_vec();
        self.session.sent(bytes.len());
        self.agent.feed(&bytes);
        while let Some(message) = self.agent.take().expect("the broker speaks the protocol") {
            match message {
                ToAgent::Hello(_) => {}
                ToAgent::Execute(params, _) | ToAgent::JustExecute(params, _) => {
                    self.known.push(params);
                }
                ToAgent::Connect(params, _) => {
                    self.known.push(params);
                    self.answers += 1;
                }
                ToAgent::Refused(_) => self.answers += 1,
            }
        }
    }

    fn verify(&self) {
        self.session.verify_invariants();
        if self.resting || self.broken {
            assert_eq!(self.session.outgoing(), b"", "said after the end");
            assert!(!self.session.is_open());
        }
        assert!(self.answers <= self.callers, "an answer to nobody");
        let live = self.legs.iter().filter(|leg| leg.strong_count() > 0);
        assert_eq!(live.count(), self.session.calls(), "a leg without a port");
        if self.resting {
            assert_eq!(self.session.calls(), 0);
        }
        assert!(self.session.outgoing().len() <= limits::MAX_OUTGOING);
    }
}

/// Runs the operations of an input.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut now = Instant::now();
    let transport = match input.byte() % 2 {
        0 => Transport::Link,
        _ => Transport::Sockets,
    };
    let start = u32::from(input.byte()) * 3;
    let mut sides = OWN.map(|own| Side::new(own, transport, start, now));
    while !input.0.is_empty() {
        let [one, other] = &mut sides;
        step(&mut input, transport, (one, other), &mut now);
        for side in &mut sides {
            side.hear(now);
            side.verify();
            side.legs.retain(|leg| leg.strong_count() > 0);
        }
    }
}

fn step(
    input: &mut Input<'_>,
    transport: Transport,
    sides: (&mut Side, &mut Side),
    now: &mut Instant,
) {
    let operation = input.byte();
    let (side, other, peer) = if operation < 128 {
        (sides.0, sides.1, OWN[1])
    } else {
        (sides.1, sides.0, OWN[0])
    };
    match operation % 11 {
        0 => side.begin(u32::from(input.byte() % 7)),
        1 => side.end(),
        2 => {
            let count = usize::from(input.byte()).min(input.0.len());
            let (bytes, rest) = input.0.split_at(count);
            side.session.feed(bytes);
            input.0 = rest;
        }
        3 => {
            let numbers = [input.byte(), input.byte()];
            let version = Version::negotiate(u32::from(2 + numbers[0] % 3));
            let trigger = Trigger {
                claimed_source: Target::default(),
                target: Target::sanitise(&numbers),
                ident: Ident::new(&format!("S{}", numbers[1])).expect("short"),
                service: numbers.to_vec(),
            };
            side.say(&ToBroker::Trigger(trigger), version.expect("2 to 4"));
        }
        4 => {
            let number = usize::from(input.byte());
            let params = match side.known.get(number) {
                Some(params) => *params,
                None => ExecParams {
                    domain: u32::from(input.byte() % 8),
                    port: 500 + u32::from(input.byte()) * 2,
                },
            };
            side.say(&ToBroker::Terminated(params), Version::OURS);
        }
        5 => join(input, transport, (side, other), peer, *now),
        6 => {
            let number = usize::from(input.byte());
            if number < side.waiting.len() {
                let caller = side.waiting.remove(number);
                side.broken |= side.session.refuse(&caller).is_err();
            }
        }
        7 => side.read(usize::from(input.byte()) * 64),
        8 => {
            *now += Duration::from_millis(u64::from(input.byte()) * 500);
            let mut ports = side.session.overdue(*now);
            ports.dedup();
            assert!(ports.len() <= 256);
            assert!(side.session.next_deadline().is_none_or(|next| next > *now));
        }
        9 => {
            let leg = side.leg();
            let streams = match input.byte() % 2 {
                0 => Streams::Connected,
                _ => Streams::None,
            };
            serve(side, ADMIN_DOMAIN, streams, leg, *now);
        }
        _ => {
            // The other end of a call is cut off: only of one that there is.
            let number = usize::from(input.byte());
            if let (Transport::Link, Some(params)) = (transport, side.known.get(number)) {
                let in_use = side.session.is_in_use(*params);
                assert!(!in_use || side.session.calls() > 0);
            }
        }
    }
}

fn serve(side: &mut Side, peer: u32, streams: Streams, leg: Rc<()>, now: Instant) -> Option<u32> {
    let command = CommandLine::new(&b"user:true"[..]).expect("short");
    let served = side.session.serve(peer, command, streams, leg, now);
    if let Ok(port) = served {
        assert!((513..=768).contains(&port));
    }
    served.ok()
}

/// Policy allows a call: the other VM becomes its service end, then the caller its client end.
fn join(
    input: &mut Input<'_>,
    transport: Transport,
    (side, other): (&mut Side, &mut Side),
    peer: u32,
    now: Instant,
) {
    let number = usize::from(input.byte());
    if number >= side.waiting.len() {
        return;
    }
    let caller = side.waiting.remove(number);
    let own = if peer == OWN[0] { OWN[1] } else { OWN[0] };
    let leg = other.leg();
    let Some(port) = serve(other, own, Streams::Connected, leg, now) else {
        side.broken |= side.session.refuse(&caller).is_err();
        return;
    };
    let port = match transport {
        Transport::Link => Port::Free,
        Transport::Sockets => Port::Given(port),
    };
    let leg = side.leg();
    // A caller that has gone leaves the service to its agent's report.
    let _connected = side.session.connect(&caller, peer, port, leg, now);
}
