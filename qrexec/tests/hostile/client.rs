//! What a service end may say to a client of the host: frames that are none, twice, late, or in the wrong direction.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use casemate_qrexec_wire::{DataFrame, ToBroker, Version};

use crate::house::{Agent, Broker, until};

fn frames(frames: &[DataFrame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(Version::OURS, &mut bytes).unwrap();
    }
    bytes
}

fn header(kind: u32, len: u32) -> Vec<u8> {
    [kind.to_le_bytes(), len.to_le_bytes()].concat()
}

/// The largest frame of stdout.
fn large(byte: u8) -> Vec<u8> {
    [header(0x191, 65_536), vec![byte; 65_536]].concat()
}

/// Calls `work` as the host; the service end says `words` and closes. Returns stdout and the exit code.
fn call(broker: &Broker, agent: &mut Agent, words: &[u8]) -> (Vec<u8>, Option<i32>) {
    let socket = broker.path().join("qrexec.work");
    until("the broker's socket", || socket.exists());
    let client = Command::new(env!("CARGO_BIN_EXE_casemate-qrexec"))
        .args(["call-vchan", "--vchan-dir"])
        .arg(broker.path())
        .args(["work", "x"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (params, _) = agent.executes();
    let path = broker
        .path()
        .join(format!("vchan.0.3.{}.sock", params.port));
    let mut stream = None;
    until("the client's socket", || {
        stream = UnixStream::connect(&path).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    // One that has enough of it closes first.
    let _ = stream.write_all(words);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    drop(stream);
    agent.send(&ToBroker::Terminated(params));
    let output = client.wait_with_output().unwrap();
    (output.stdout, output.status.code())
}

#[test]
fn a_service_end_that_lies_ends_the_call_with_the_code_of_a_lost_one() {
    let hello = frames(&[DataFrame::Hello(4)]);
    let say = DataFrame::Stdout(b"words");
    let end = DataFrame::Stdout(&[]);
    let with = |rest: Vec<u8>| [hello.clone(), rest].concat();
    let bodies =
        |bytes: &[u8]| -> Vec<u8> { bytes.iter().flat_map(|byte| [*byte; 65_536]).collect() };
    let cut = [bodies(b"x"), vec![b'y'; 40_000]].concat();
    let mixed = [bodies(b"xyz"), b"words".to_vec()].concat();
    let broken = bodies(b"xy");
    let rows: Vec<(&str, Vec<u8>, &[u8], i32)> = vec![
        (
            "an orderly end",
            with(frames(&[say, end, DataFrame::ExitCode(7)])),
            b"words",
            7,
        ),
        ("nothing", vec![], b"", 255),
        ("hello only", hello.clone(), b"", 255),
        ("no hello", frames(&[say]), b"", 255),
        ("two hellos", with(hello.clone()), b"", 255),
        (
            "a version that is too old",
            frames(&[DataFrame::Hello(1)]),
            b"",
            255,
        ),
        (
            "data after the end",
            with(frames(&[say, end, say, DataFrame::ExitCode(1)])),
            b"words",
            1,
        ),
        (
            "the end twice",
            with(frames(&[say, end, end, DataFrame::ExitCode(2)])),
            b"words",
            2,
        ),
        (
            "no end before the code",
            with(frames(&[say, DataFrame::ExitCode(3)])),
            b"words",
            3,
        ),
        (
            "two codes",
            with(frames(&[DataFrame::ExitCode(4), DataFrame::ExitCode(5)])),
            b"",
            4,
        ),
        (
            "words after the code",
            with(frames(&[DataFrame::ExitCode(4), say])),
            b"",
            4,
        ),
        (
            "a code that is no byte",
            with(frames(&[DataFrame::ExitCode(256)])),
            b"",
            255,
        ),
        (
            "a negative code",
            with(frames(&[DataFrame::ExitCode(-1)])),
            b"",
            255,
        ),
        (
            "a short code",
            with([header(0x193, 3), vec![0; 3]].concat()),
            b"",
            255,
        ),
        (
            "a long code",
            with([header(0x193, 9), vec![6, 0, 0, 0, 9, 9, 9, 9, 9]].concat()),
            b"",
            6,
        ),
        (
            "input for us",
            with(frames(&[DataFrame::Stdin(b"x"), DataFrame::ExitCode(8)])),
            b"",
            8,
        ),
        (
            "a frame of the control stream",
            with(header(0x200, 12)),
            b"",
            255,
        ),
        ("an unknown frame", with(header(0x194, 0)), b"", 255),
        (
            "a frame that is too long",
            with(header(0x191, 65_537)),
            b"",
            255,
        ),
        (
            "a frame that is far too long",
            with(header(0x191, u32::MAX)),
            b"",
            255,
        ),
        (
            "the longest frame",
            with([large(b'x'), frames(&[DataFrame::ExitCode(9)])].concat()),
            &[b'x'; 65_536],
            9,
        ),
        ("half a header", with(vec![0x91, 1, 0]), b"", 255),
        (
            "half a body",
            with([header(0x191, 5), b"wor".to_vec()].concat()),
            b"wor",
            255,
        ),
        (
            "half a large body after a large one",
            with([large(b'x'), header(0x191, 65_536), vec![b'y'; 40_000]].concat()),
            &cut,
            255,
        ),
        (
            "large bodies, errors, and small ones",
            with(
                [
                    large(b'x'),
                    large(b'y'),
                    header(0x192, 65_536),
                    vec![b'e'; 65_536],
                    large(b'z'),
                    frames(&[say, DataFrame::ExitCode(10)]),
                ]
                .concat(),
            ),
            &mixed,
            10,
        ),
        (
            "a frame that is none after large bodies",
            with([large(b'x'), large(b'y'), header(0x191, 65_537)].concat()),
            &broken,
            255,
        ),
    ];
    let broker = Broker::start("", &[]);
    let mut agent = Agent::start(&broker, 3, 4);
    for (what, words, output, code) in rows {
        let (said, ended) = call(&broker, &mut agent, &words);
        assert_eq!(ended, Some(code), "{what}");
        assert!(said == output, "{what}: {} bytes", said.len());
    }
    broker.idle();
}

/// The stream of a whole call, cut at every byte of it. What of a body has come is not kept back.
#[test]
fn a_stream_that_ends_at_any_byte_is_a_lost_call_until_the_code_is_there() {
    let whole = frames(&[
        DataFrame::Hello(4),
        DataFrame::Stdout(b"ab"),
        DataFrame::Stderr(b"c"),
        DataFrame::Stdout(&[]),
        DataFrame::Stderr(&[]),
        DataFrame::ExitCode(5),
    ]);
    let broker = Broker::start("", &[]);
    let mut agent = Agent::start(&broker, 3, 4);
    for cut in 0..=whole.len() {
        let (said, ended) = call(&broker, &mut agent, &whole[..cut]);
        let expected = if cut == whole.len() { 5 } else { 255 };
        assert_eq!(ended, Some(expected), "cut at {cut}");
        let words = b"ab".get(..cut.saturating_sub(12 + 8)).unwrap_or(b"ab");
        assert_eq!(said, words, "cut at {cut}");
    }
    broker.idle();
}

/// Clients of the host, and of the policy socket, that connect and say nothing: they have places of their own, and no VM
/// waits for them.
#[test]
fn clients_that_hang_keep_nobody_but_clients_waiting() {
    // The broker, too, has the descriptors of this test.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
    let mut policy_socket = None;
    let broker = Broker::prepared("s * work vault allow notify=no\n", |dir| {
        let socket = dir.join("policy.sock");
        let words = vec!["--policy-socket".to_owned(), socket.display().to_string()];
        policy_socket = Some(socket);
        words
    });
    let policy_socket = policy_socket.unwrap();
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    let host_socket = broker.path().join("qrexec.work");
    until("the sockets", || {
        host_socket.exists() && policy_socket.exists()
    });
    // More than are served at a time, 256 on each; the rest waits to be accepted.
    let hanging: Vec<UnixStream> = [&host_socket, &policy_socket]
        .into_iter()
        .flat_map(|socket| (0..1000).map(move |_| UnixStream::connect(socket).unwrap()))
        .collect();
    for number in 0..20 {
        let ident = format!("S{number}");
        work.trigger(&ident, "vault", b"s");
        vault.executes();
        work.connects(&ident);
    }
    assert_eq!(broker.calls().len(), 20);
    drop(hanging);
    // Their places are free again.
    let (_, code) = call(
        &broker,
        &mut work,
        &frames(&[DataFrame::Hello(4), DataFrame::ExitCode(7)]),
    );
    assert_eq!(code, Some(7));
}
