//! The broker alone, as a process, with agents of every version that the wire knows at sockets of the reference's names.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/broker.rs"]
mod broker;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use casemate_qrexec_wire::{
    ControlDecoder, DataDecoder, DataFrame, ExecParams, Ident, Message, Target, ToAgent, ToBroker,
    Trigger, Version,
};

use broker::broker;

const SOON: Duration = Duration::from_secs(20);
const FACTS: &str = r#"{"domains":{
    "work":{"type":"AppVM","power_state":"Running","uuid":"1"},
    "vault":{"type":"AppVM","power_state":"Running","uuid":"2"}}}"#;

struct Broker {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    fn start(policy: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("policy")).unwrap();
        fs::write(dir.path().join("policy/10.policy"), policy).unwrap();
        fs::write(dir.path().join("facts.json"), FACTS).unwrap();
        let child = broker(dir.path())
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn call(&self, words: &[&str]) -> Command {
        let socket = self.path().join("qrexec.work");
        until(|| socket.exists());
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-qrexec"));
        command.args(["call-vchan", "--vchan-dir"]);
        command.arg(self.path()).args(words).stderr(Stdio::piped());
        command
    }
}

fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "it takes too long");
        thread::yield_now();
    }
}

/// An agent that speaks one version.
struct Agent {
    dir: PathBuf,
    id: u32,
    control: UnixStream,
    decoder: ControlDecoder<ToAgent>,
    version: Version,
}

impl Agent {
    fn start(broker: &Broker, id: u32, version: u32) -> Self {
        let dir = broker.path().to_owned();
        let listener = UnixListener::bind(dir.join(format!("vchan.{id}.0.512.sock"))).unwrap();
        let (mut control, _) = listener.accept().unwrap();
        control.set_read_timeout(Some(SOON)).unwrap();
        let mut hello = Vec::new();
        let number = ToBroker::Hello(version);
        number.encode(Version::OLDEST, &mut hello).unwrap();
        control.write_all(&hello).unwrap();
        let version = Version::negotiate(version).unwrap();
        let decoder = ControlDecoder::default();
        let mut agent = Self {
            dir,
            id,
            control,
            decoder,
            version,
        };
        assert!(matches!(agent.next(), ToAgent::Hello(4)));
        agent
    }

    fn next(&mut self) -> ToAgent {
        loop {
            if let Some(order) = self.decoder.take().unwrap() {
                return order;
            }
            let mut piece = [0; 4096];
            let read = self.control.read(&mut piece).unwrap();
            assert_ne!(read, 0, "the broker closed the control stream");
            self.decoder.feed(&piece[..read]);
        }
    }

    fn send(&mut self, message: &ToBroker) {
        let mut frame = Vec::new();
        message.encode(self.version, &mut frame).unwrap();
        self.control.write_all(&frame).unwrap();
    }

    fn trigger(&mut self, target: &str, service: &str) {
        self.send(&ToBroker::Trigger(Trigger {
            claimed_source: Target::default(),
            target: Target::sanitise(target.as_bytes()),
            ident: Ident::new("SOCKET7").unwrap(),
            service: service.as_bytes().to_vec(),
        }));
    }

    /// Connects as the service end, as soon as the other end listens.
    fn connect(&self, params: ExecParams) -> UnixStream {
        let name = format!("vchan.{}.{}.{}.sock", params.domain, self.id, params.port);
        let path = self.dir.join(name);
        let mut stream = None;
        until(|| {
            stream = UnixStream::connect(&path).ok();
            stream.is_some()
        });
        stream.unwrap()
    }
}

/// Says HELLO of a version and takes the other's.
fn greet(stream: &mut UnixStream, version: u32) -> (DataDecoder, Version) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut hello = Vec::new();
    let ours = DataFrame::Hello(version);
    ours.encode(Version::OLDEST, &mut hello).unwrap();
    stream.write_all(&hello).unwrap();
    let mut decoder = DataDecoder::default();
    while decoder.take().unwrap().is_none() {
        fill(stream, &mut decoder);
    }
    (decoder, Version::negotiate(version).unwrap())
}

fn fill(stream: &mut UnixStream, decoder: &mut DataDecoder) {
    let mut piece = [0; 70_000];
    let read = stream.read(&mut piece).unwrap();
    assert_ne!(read, 0, "the stream ended");
    decoder.feed(&piece[..read]);
}

#[test]
fn the_admin_side_calls_agents_of_every_version() {
    for number in [2, 3, 4, 9] {
        let broker = Broker::start("* * @anyvm @anyvm deny\n", &[]);
        let mut agent = Agent::start(&broker, 3, number);
        let mut call = broker.call(&["work", "cat"]);
        let mut client = call
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ToAgent::Execute(params, command) = agent.next() else {
            panic!("a command was expected");
        };
        assert_eq!(
            (params, command.as_bytes()),
            (
                ExecParams {
                    domain: 0,
                    port: 513
                },
                &b"DEFAULT:cat"[..]
            )
        );
        let mut stream = agent.connect(params);
        let (mut decoder, version) = greet(&mut stream, number);
        let sent: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut stdin, copy) = (client.stdin.take().unwrap(), sent.clone());
        let feeder = thread::spawn(move || stdin.write_all(&copy).unwrap());
        let mut received = Vec::new();
        'all: loop {
            while let Some(frame) = decoder.take().unwrap() {
                match frame {
                    DataFrame::Stdin([]) => break 'all,
                    // The decoder refuses chunks that the version does not have.
                    DataFrame::Stdin(bytes) => received.extend_from_slice(bytes),
                    other => panic!("{other:?}"),
                }
            }
            fill(&mut stream, &mut decoder);
        }
        feeder.join().unwrap();
        assert!(received == sent, "version {number}");
        let mut answer = Vec::new();
        for chunk in sent.chunks(version.max_data_chunk()) {
            DataFrame::Stdout(chunk)
                .encode(version, &mut answer)
                .unwrap();
        }
        for frame in [
            DataFrame::Stderr(b"words\n"),
            DataFrame::Stdout(&[]),
            DataFrame::Stderr(&[]),
            DataFrame::ExitCode(42),
        ] {
            frame.encode(version, &mut answer).unwrap();
        }
        let writer = thread::spawn(move || stream.write_all(&answer));
        let output = client.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(output.status.code(), Some(42), "version {number}");
        assert!(output.stdout == sent && output.stderr == b"words\n");
        agent.send(&ToBroker::Terminated(params));
    }
}

#[test]
fn vms_of_different_versions_call_each_other_and_meet_by_themselves() {
    for (caller, callee) in [(4, 4), (2, 4), (4, 2), (3, 2)] {
        let broker = Broker::start(
            "copy +x work vault allow user=root\n* * @anyvm @anyvm deny\n",
            &[],
        );
        let mut work = Agent::start(&broker, 3, caller);
        let mut vault = Agent::start(&broker, 4, callee);
        work.trigger("vault", "copy+x");
        let ToAgent::Execute(service, command) = vault.next() else {
            panic!("a command was expected");
        };
        // The service's own number is the larger one, so the index is even.
        assert_eq!(
            service,
            ExecParams {
                domain: 3,
                port: 513
            }
        );
        assert_eq!(command.as_bytes(), b"root:QUBESRPC copy+x work");
        let ToAgent::Connect(client, ident) = work.next() else {
            panic!("the call was allowed");
        };
        assert_eq!(
            (client, ident.to_string().as_str()),
            (
                ExecParams {
                    domain: 4,
                    port: 513
                },
                "SOCKET7"
            )
        );
        work.send(&ToBroker::Terminated(client));
        vault.send(&ToBroker::Terminated(service));
        work.trigger("vault", "other");
        assert!(matches!(work.next(), ToAgent::Refused(ident) if ident.to_string() == "SOCKET7"));
        // The other way a number of the other parity: the two daemons of a pair can never choose the same.
        vault.trigger("work", "copy+x");
        assert!(matches!(vault.next(), ToAgent::Refused(_)));
        // A call is on record after its ends were joined, which may be after the next ones were denied.
        let lines = || {
            let audit = fs::read_to_string(broker.path().join("audit.jsonl")).unwrap();
            audit.lines().count()
        };
        while lines() < 3 {
            thread::yield_now();
        }
        assert_eq!(lines(), 3);
    }
}

#[test]
fn questions_have_the_standing_answer() {
    let ask = "move * work @anyvm ask default_target=vault\n";
    let denies = Broker::start(ask, &[]);
    let mut work = Agent::start(&denies, 3, 4);
    let _vault = Agent::start(&denies, 4, 4);
    work.trigger("", "move");
    assert!(matches!(work.next(), ToAgent::Refused(_)));
    let allows = Broker::start(ask, &["--ask", "default"]);
    let mut work = Agent::start(&allows, 3, 4);
    let mut vault = Agent::start(&allows, 4, 4);
    work.trigger("", "move");
    assert!(matches!(vault.next(), ToAgent::Execute(..)));
    assert!(matches!(work.next(), ToAgent::Connect(..)));
}

/// A lost agent at each point of a call: the client ends, with the code of a lost call.
#[test]
fn a_client_ends_when_the_agent_does() {
    for stage in 0..4 {
        let broker = Broker::start("", &[]);
        let mut agent = Agent::start(&broker, 3, 4);
        let mut call = broker.call(&["work", "sleep"]);
        let mut client = call
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let ToAgent::Execute(params, _) = agent.next() else {
            panic!("a command was expected");
        };
        let stream = (stage > 0).then(|| agent.connect(params));
        if let Some(mut stream) = stream {
            if stage > 1 {
                greet(&mut stream, 4);
            }
            if stage > 2 {
                let mut half = Vec::new();
                DataFrame::Stdout(b"half a frame")
                    .encode(Version::OURS, &mut half)
                    .unwrap();
                stream.write_all(&half[..half.len() - 3]).unwrap();
            }
        }
        drop(agent);
        let mut status = None;
        until(|| {
            status = client.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(255), "stage {stage}");
    }
}
