//! Somebody between the two ends of a call's data stream, who hands on frame by frame and may stop at any of them.

use std::{
    fs,
    io::Write,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    process::Child,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use super::{
    CONNECT, EXEC, HELLO, OWN, PEER, STDIN, TERMINATED, TRIGGER4, connect, frame, next, pair::Pair,
    params,
};

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the caller's tool to the agent of the service.
    There,
    /// From the agent of the service to the tool.
    Back,
}

/// What becomes of the frames behind those that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Both ends lose the stream.
    Cut,
    /// They reach nobody; the stream lives on.
    Swallow,
}

/// How a call is carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carry {
    /// The version that each end hears of the other.
    pub(crate) version: u32,
    /// So many frames pass in one way, then this happens.
    pub(crate) stop: Option<(Way, usize, Then)>,
    /// So many bytes of input pass; those behind are swallowed.
    pub(crate) input: usize,
}

impl Carry {
    pub(crate) fn all(version: u32) -> Self {
        Self {
            version,
            stop: None,
            input: usize::MAX,
        }
    }
}

/// A frame that has passed.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) way: Way,
    pub(crate) kind: u32,
    pub(crate) body: Vec<u8>,
}

/// A call whose stream passes the test.
pub(crate) struct Between {
    pub(crate) tool: Child,
    passed: Receiver<Passed>,
    streams: [UnixStream; 2],
    carriers: Vec<JoinHandle<()>>,
    /// The ports that the host has told caller and callee.
    ports: [u32; 2],
}

impl Between {
    /// Starts a tool in the caller and does the host's part, with the stream in the test's hands.
    pub(crate) fn call(pair: &mut Pair, arguments: &[&str], carry: Carry) -> Self {
        let tool = pair.caller.tool(arguments).spawn().unwrap();
        let (kind, body) = pair.caller.receive();
        assert_eq!(kind, TRIGGER4);
        let service = std::str::from_utf8(&body[160..])
            .unwrap()
            .trim_end_matches('\0');
        let ports = [pair.port(), pair.port()];
        let name = |port: u32| format!("vchan.{OWN}.{PEER}.{port}.sock");
        let [to_tool, to_agent] = ports.map(|port| pair.caller.vchan.join(name(port)));
        let listener = UnixListener::bind(&to_agent).unwrap();
        let order = format!("{}:QUBESRPC {service} caller\0", pair.callee.user);
        let to_callee = [params(OWN, ports[1]), order.into()].concat();
        pair.callee.send(&frame(EXEC, &to_callee));
        let to_caller = [&params(PEER, ports[0]), &body[128..160]].concat();
        pair.caller.send(&frame(CONNECT, &to_caller));
        let (service, _) = listener.accept().unwrap();
        fs::remove_file(&to_agent).unwrap();
        let streams = [connect(&to_tool), service];
        let (tell, passed) = channel();
        let carriers = [(Way::There, 0, 1), (Way::Back, 1, 0)].map(|(way, from, to)| {
            let ends = [from, to].map(|end: usize| streams[end].try_clone().unwrap());
            let tell = tell.clone();
            thread::spawn(move || carry.frames(way, ends, &tell))
        });
        Self {
            tool,
            passed,
            streams,
            carriers: carriers.into(),
            ports,
        }
    }

    /// Returns when so many frames have passed in a way, or no more can.
    pub(crate) fn after(&self, way: Way, count: usize) {
        let of_way = self.passed.iter().filter(|passed| passed.way == way);
        let _ = of_way.take(count).count();
    }

    /// Returns when so many bytes of input have passed, or no more can; and what they are.
    pub(crate) fn input(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let Ok(passed) = self.passed.recv() else {
                break;
            };
            if passed.kind == STDIN {
                bytes.extend(passed.body);
            }
        }
        bytes
    }

    /// Both ends have gone, and the agents that live have told their hosts. Returns what has passed since the last look.
    pub(crate) fn over(mut self, pair: &mut Pair, callee_lives: bool) -> Vec<Passed> {
        let end = |of, port| (TERMINATED, params(of, port));
        if callee_lives {
            assert_eq!(pair.callee.receive(), end(OWN, self.ports[1]));
        }
        assert_eq!(pair.caller.receive(), end(PEER, self.ports[0]));
        // They have ended their streams, which ends ours.
        for carrier in self.carriers.drain(..) {
            carrier.join().unwrap();
        }
        self.passed.try_iter().collect()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.tool.kill();
        let _ = self.tool.wait();
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Carry {
    /// Hands on frames in one way until an end has gone; then the other one loses its stream, too.
    fn frames(self, way: Way, [mut from, mut to]: [UnixStream; 2], tell: &Sender<Passed>) {
        let mut count = 0;
        let mut input = self.input;
        while let Some((kind, mut body)) = next(&mut from) {
            match self.stop {
                Some((of, most, then)) if of == way && count >= most => match then {
                    Then::Cut => break,
                    Then::Swallow => continue,
                },
                _ => {}
            }
            if kind == HELLO {
                body = self.version.to_le_bytes().to_vec();
            }
            if kind == STDIN {
                if input == 0 {
                    continue;
                }
                body.truncate(input);
                input -= body.len();
            }
            if to.write_all(&frame(kind, &body)).is_err() {
                break;
            }
            count += 1;
            // Nobody has to listen.
            let _ = tell.send(Passed { way, kind, body });
        }
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
