//! A real agent in this process, a host made of Unix sockets: one listener a port, frames of the real wire.

use std::{
    io::{Read, Write},
    ops::ControlFlow,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use casemate_qrexec_stream::{DataReader, DataWriter, Piece, open};
use casemate_qrexec_wire::{
    CommandLine, ControlDecoder, ExecParams, FrameType, Ident, Message, Target, ToAgent, ToBroker,
    Trigger, Version,
};

use super::{control::Calls, local, settings::Settings, transport::Transport};

/// The broker's and the vmm's part.
struct Host {
    dir: tempfile::TempDir,
    control: UnixStream,
    decoder: ControlDecoder<ToBroker>,
    next_port: u32,
}

impl Host {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("512.sock")).unwrap();
        let calls = Calls::new(Settings::new(
            Transport::Directory(dir.path().to_owned()),
            dir.path().join("agent"),
        ));
        local::listen(&dir.path().join("agent"), Arc::clone(&calls)).unwrap();
        thread::spawn(move || calls.run());
        let (control, _) = listener.accept().unwrap();
        control
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut host = Self {
            dir,
            control,
            decoder: ControlDecoder::default(),
            next_port: 513,
        };
        assert!(matches!(host.receive(), ToBroker::Hello(_)));
        host.send(&ToAgent::Hello(4));
        host
    }

    fn send(&mut self, message: &ToAgent) {
        let mut frame = Vec::new();
        message.encode(Version::OURS, &mut frame).unwrap();
        self.control.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> ToBroker {
        let mut buffer = [0; 1024];
        loop {
            if let Some(message) = self.decoder.take().unwrap() {
                return message;
            }
            let read = self.control.read(&mut buffer).unwrap();
            assert!(read > 0, "the agent closed the control stream");
            self.decoder.feed(&buffer[..read]);
        }
    }

    fn offer(&mut self) -> (u32, UnixListener) {
        let port = self.next_port;
        self.next_port += 1;
        (
            port,
            UnixListener::bind(self.dir.path().join(format!("{port}.sock"))).unwrap(),
        )
    }

    /// Starts a call as this test's own account and gives the client end of its data stream.
    fn execute(&mut self, what: &str) -> (u32, DataReader, DataWriter) {
        let account = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .unwrap()
            .unwrap()
            .name;
        let (port, listener) = self.offer();
        let line = CommandLine::new(format!("{account}:{what}")).unwrap();
        self.send(&ToAgent::Execute(ExecParams { domain: 7, port }, line));
        let (stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let (reader, writer) = open(stream).unwrap();
        (port, reader, writer)
    }

    /// Runs a call to its end: its output, its errors, its exit code.
    fn run(&mut self, what: &str, input: &'static [u8]) -> (Vec<u8>, Vec<u8>, i32) {
        let (port, mut reader, writer) = self.execute(what);
        let feeder = thread::spawn(move || {
            let _ = writer.send(FrameType::DataStdin, input);
            writer.end(FrameType::DataStdin);
        });
        let result = collect(&mut reader);
        // The service may have ended without reading everything.
        feeder.join().unwrap();
        assert_eq!(
            self.receive(),
            ToBroker::Terminated(ExecParams { domain: 7, port })
        );
        result
    }
}

fn collect(reader: &mut DataReader) -> (Vec<u8>, Vec<u8>, i32) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut out_ended, mut err_ended) = (false, false);
    let code = reader.each(|piece| {
        match piece {
            Piece::End(FrameType::DataStdout) => out_ended = true,
            Piece::Bytes(FrameType::DataStdout, bytes) => out.extend_from_slice(bytes),
            Piece::End(FrameType::DataStderr) => err_ended = true,
            Piece::Bytes(FrameType::DataStderr, bytes) => err.extend_from_slice(bytes),
            Piece::ExitCode(code) => return Ok(ControlFlow::Break(code)),
            other => panic!("{other:?}"),
        }
        Ok(ControlFlow::Continue(()))
    });
    let code = code.unwrap().expect("an exit code");
    assert!(
        out_ended && err_ended,
        "both streams end before the exit code"
    );
    (out, err, code)
}

#[test]
fn streams_and_exit_codes() {
    let mut host = Host::start();
    for (what, input, out, err, code) in [
        (
            "echo out; echo err >&2; exit 3",
            &b""[..],
            &b"out\n"[..],
            &b"err\n"[..],
            3,
        ),
        ("cat", b"hello", b"hello", b"", 0),
        ("kill -TERM $$", b"", b"", b"", 128 + 15),
        (
            "exec <&-; sleep 0.1; echo done",
            b"dropped",
            b"done\n",
            b"",
            0,
        ),
        ("nogui:printf x", b"", b"x", b"", 0),
        ("QUBESRPC no.Such.Service dom0", b"", b"", b"", 127),
        ("QUBESRPC a b c", b"", b"", b"", 125),
    ] {
        let (got_out, got_err, got_code) = host.run(what, input);
        assert_eq!(
            (got_out.as_slice(), got_err.as_slice(), got_code),
            (out, err, code),
            "{what}"
        );
    }
}

#[test]
fn megabytes_come_back_unchanged() {
    static BIG: [u8; 8 << 20] = {
        let mut data = [0; 8 << 20];
        let mut index = 0;
        while index < data.len() {
            data[index] = (index.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0];
            index += 257;
        }
        data
    };
    let (out, _, code) = Host::start().run("cat", &BIG);
    assert_eq!(
        (out.len(), crc32fast::hash(&out), code),
        (BIG.len(), crc32fast::hash(&BIG), 0)
    );
}

#[test]
fn a_grandchild_keeps_the_call_open() {
    let mut host = Host::start();
    let (out, _, code) = host.run("(sleep 0.3; echo late) & exit 5", b"");
    assert_eq!((out.as_slice(), code), (&b"late\n"[..], 5));
}

#[test]
fn a_lost_caller_ends_what_it_started() {
    let mut host = Host::start();
    let marker = host.dir.path().join("alive");
    let (port, reader, writer) = host.execute(&format!(
        "trap 'rm {0}; exit' HUP; touch {0}; while :; do sleep 0.05; done",
        marker.display()
    ));
    wait_until("the command runs", || marker.exists());
    drop((reader, writer));
    wait_until("the command was told", || !marker.exists());
    assert_eq!(
        host.receive(),
        ToBroker::Terminated(ExecParams { domain: 7, port })
    );
}

#[test]
fn local_clients_call_out() {
    let mut host = Host::start();
    let trigger = |ident: &str| Trigger {
        claimed_source: Target::default(),
        target: Target::sanitise(b"vault"),
        ident: Ident::new(ident).unwrap(),
        service: b"test.Add+1".to_vec(),
    };
    let ask = |dir: &Path| {
        let mut client = UnixStream::connect(dir.join("agent")).unwrap();
        let mut frame = Vec::new();
        ToBroker::Trigger(trigger("mine"))
            .encode(Version::OURS, &mut frame)
            .unwrap();
        client.write_all(&frame).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client
    };
    let mut allowed = ask(host.dir.path());
    let ToBroker::Trigger(first) = host.receive() else {
        panic!("no trigger")
    };
    assert_eq!(
        (first.target.as_str(), first.service.as_slice()),
        ("vault", &b"test.Add+1"[..])
    );
    let mut refused = ask(host.dir.path());
    let ToBroker::Trigger(second) = host.receive() else {
        panic!("no trigger")
    };
    assert_ne!(
        first.ident, second.ident,
        "the agent gives each client an ident of its own"
    );

    host.send(&ToAgent::Refused(second.ident));
    assert_eq!(refused.read(&mut [0; 8]).unwrap(), 0, "a refusal closes");
    let place = ExecParams {
        domain: 9,
        port: 600,
    };
    host.send(&ToAgent::Connect(place, first.ident));
    let mut answer = [0; ExecParams::LEN];
    allowed.read_exact(&mut answer).unwrap();
    assert_eq!(ExecParams::decode(answer), place);
    drop(allowed);
    assert_eq!(host.receive(), ToBroker::Terminated(place));
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(10));
    }
}
