//! Both halves of a stream over a socket pair: copied or passed on, what goes in comes out.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
};

use casemate_qrexec_stream::{
    DataReader, DataWriter, Feed, FrameBuffer, Passed, Passing, Piece, open,
};
use casemate_qrexec_wire::{FrameType, Version};
use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
};

type Half = (DataReader, DataWriter);

fn streams() -> (Half, Half) {
    let (one, other) = UnixStream::pair().unwrap();
    let other = thread::spawn(move || open(other).unwrap());
    let (mut reader, writer) = open(one).unwrap();
    reader.do_not_block().unwrap();
    let mut other = other.join().unwrap();
    other.0.do_not_block().unwrap();
    ((reader, writer), other)
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer)
}

/// No two pieces of it are alike.
fn words(len: usize) -> Vec<u8> {
    (0..u32::MAX)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(len)
        .collect()
}

fn wait(fd: impl AsFd, flags: PollFlags) {
    poll(&mut [PollFd::new(&fd, flags)], None).unwrap();
}

/// Takes a stream to its end, with what can be passed on going to a pipe, and says how much was passed.
fn receive(mut reader: DataReader, to: OwnedFd, pass: bool) -> usize {
    reader.may_pass(pass);
    let mut passed = 0;
    let mut file = File::from(to);
    loop {
        while let Some(piece) = reader.peek().unwrap() {
            let count = match piece {
                Piece::Bytes(FrameType::DataStdin, bytes) => {
                    file.write_all(bytes).unwrap();
                    bytes.len()
                }
                Piece::End(FrameType::DataStdin) => return passed,
                other => panic!("{other:?}"),
            };
            reader.take(count);
        }
        if reader.passable().is_some() {
            match reader.pass(&file).unwrap() {
                Passed::Some(count) => passed += count,
                Passed::Empty => wait(reader.stream(), PollFlags::IN),
                Passed::Full => wait(&file, PollFlags::OUT),
                other => panic!("{other:?}"),
            }
            continue;
        }
        match reader.fill() {
            Ok(more) => assert!(more, "the stream ended before its end was said"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                wait(reader.stream(), PollFlags::IN);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// What arrives of `source`, and how much of it was passed on by the receiver.
fn through(source: OwnedFd, pass: bool) -> (Vec<u8>, usize) {
    let ((_near, writer), (far, _)) = streams();
    let feeder = thread::spawn(move || {
        let mut feed = Feed::new(source, FrameType::DataStdin, writer);
        while feed.step().unwrap() {}
    });
    let (mut out, to) = pipe();
    let receiver = thread::spawn(move || receive(far, to, pass));
    let mut all = Vec::new();
    out.read_to_end(&mut all).unwrap();
    feeder.join().unwrap();
    (all, receiver.join().unwrap())
}

#[test]
fn what_is_fed_arrives_whole_and_in_order() {
    for len in [0, 1, 4096, 65_536, 65_537, 3 << 20] {
        let words = words(len);
        for pass in [false, true] {
            let (source, to) = pipe();
            let piped = words.clone();
            let writer = thread::spawn(move || File::from(to).write_all(&piped).unwrap());
            let (arrived, passed) = through(source.into(), pass);
            writer.join().unwrap();
            assert!(arrived == words, "{len} bytes of a pipe, passed: {pass}");
            assert_eq!(passed > 0, pass && len > 1 << 20, "{len}: {passed}");

            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&words).unwrap();
            file.rewind().unwrap();
            let (arrived, _) = through(file.into(), pass);
            assert!(arrived == words, "{len} bytes of a file, passed: {pass}");
        }
    }
}

#[test]
fn what_is_sent_arrives_before_what_is_fed() {
    let ((_near, writer), (far, _)) = streams();
    let words = words(200_000);
    let sent = words.clone();
    let sender = thread::spawn(move || {
        writer.send(FrameType::DataStdin, &sent).unwrap();
        writer.send(FrameType::DataStdin, &[]).unwrap();
        writer.end(FrameType::DataStdin);
    });
    let (mut out, to) = pipe();
    let receiver = thread::spawn(move || receive(far, to, true));
    let mut all = Vec::new();
    out.read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    receiver.join().unwrap();
    assert!(all == words);
}

#[test]
fn a_body_that_somebody_else_took_is_missed() {
    let (mut source, to) = pipe();
    let mut to = File::from(to);
    let mut frame = FrameBuffer::new(Version::OURS);
    let announce = |source: &File, frame: &mut FrameBuffer| {
        Passing::announce(source, FrameType::DataStdin, frame)
    };
    to.write_all(&[1; 100]).unwrap();
    assert!(announce(&source, &mut frame).is_none(), "not worth it");
    to.write_all(&[1; 40_000]).unwrap();
    let mut body = announce(&source, &mut frame).unwrap();
    source.read_exact(&mut vec![0; 40_100]).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    assert_eq!(body.go_on(&source, &ours).unwrap(), Passed::Empty);
    assert!(!body.is_over());
}

#[test]
fn nobody_reads_what_is_passed() {
    let ((_near, writer), (mut far, _)) = streams();
    thread::spawn(move || writer.send(FrameType::DataStdin, &words(400_000)));
    far.may_pass(true);
    while far.passable().is_none() {
        match far.fill() {
            Ok(more) => assert!(more),
            Err(_) => wait(far.stream(), PollFlags::IN),
        }
        while let Some(Piece::Bytes(_, bytes)) = far.peek().unwrap() {
            let count = bytes.len();
            far.take(count);
        }
    }
    let (out, to) = pipe();
    drop(out);
    assert_eq!(far.pass(&to).unwrap(), Passed::Unread);
}
