//! The relay between a process and a stream of a test.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
};

use casemate_qrexec_stream::{greet, open};
use casemate_qrexec_wire::{DataFrame, Version};
use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

/// As large as the smallest body that is passed on.
const BODY: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// What reaches the input of a call whose caller has said all of it before the call is served.
fn input_of(frames: usize, to_socket: bool) -> usize {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1 << 20).unwrap();
    greet(&ours).unwrap();
    let mut bytes = Vec::new();
    for body in std::iter::repeat_n(BODY.as_slice(), frames).chain([&[][..]]) {
        let frame = DataFrame::Stdin(body);
        frame.encode(Version::OURS, &mut bytes).unwrap();
    }
    (&ours).write_all(&bytes).unwrap();
    let (reader, _) = open(theirs).unwrap();
    let (input, mut from): (_, Box<dyn Read>) = if to_socket {
        let (one, other) = UnixStream::pair().unwrap();
        (Input::Socket(one.into()), Box::new(other))
    } else {
        let (from, input) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (Input::Pipe(input), Box::new(std::fs::File::from(from)))
    };
    let (output, held): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ends = Ends {
        input,
        output,
        errors: None,
        child: None,
        switch: None,
        preamble: Vec::new(),
        ends_on: (false, false),
    };
    let relay = thread::spawn(move || Relay::new(reader, ends).unwrap().run().map(drop));
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == b'x'));
    // The service's output ends, and with it the call.
    drop(held);
    relay.join().unwrap().unwrap();
    all.len()
}

/// Whatever of it is read in the last step of a turn is handed on before the relay waits for more.
#[test]
fn input_of_any_number_of_frames_reaches_its_end() {
    for to_socket in [false, true] {
        // More would not fit into the stream of a user who may not widen it.
        for frames in 0..20 {
            assert_eq!(input_of(frames, to_socket), frames * BODY.len());
        }
    }
}
