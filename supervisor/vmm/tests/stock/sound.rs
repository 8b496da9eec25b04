//! The mixer's end of a card's socket to play to, which checks what comes.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};

use casemate_sound_wire::{Channels, Format, MAX_PACKET, Rate, Shape, ToMixer, ToVmm};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::signal;

/// What the guest plays, one after the other: half a second of each.
pub(super) const RUNS: [Shape; 3] = [
    RECORDED,
    Shape {
        format: Format::F32,
        rate: Rate::Hz44100,
        channels: Channels::Mono,
    },
    Shape {
        format: Format::S32,
        rate: Rate::Hz48000,
        channels: Channels::Stereo,
    },
];

/// The first, which is also what it records.
const RECORDED: Shape = Shape {
    format: Format::S16,
    rate: Rate::Hz48000,
    channels: Channels::Stereo,
};

/// Hears everything as soon as it comes.
pub(super) struct Speaker {
    thread: JoinHandle<Vec<(Shape, u32)>>,
    /// A word for each run, when its first samples are here.
    runs: Receiver<usize>,
}

impl Speaker {
    pub(super) fn start(socket: OwnedFd) -> Self {
        let (tell, runs) = channel();
        let thread = spawn(move || listen(&socket, &tell));
        Self { thread, runs }
    }

    /// Waits until samples of this run have come; the first is 1.
    pub(super) fn wait_for_run(&self, number: usize) {
        loop {
            let run = self.runs.recv_timeout(super::PATIENCE);
            if run.expect("the guest plays on, and what it should") == number {
                return;
            }
        }
    }

    /// To be called when the VM has ended: all that was played is half a second of each shape, to the word.
    #[expect(clippy::print_stdout, reason = "says what it has seen")]
    pub(super) fn end(self) {
        let heard = self.thread.join().expect("every word is the right one");
        let expected = RUNS.map(|shape| (shape, shape.bytes_per_second() / 2 / 4));
        assert_eq!(heard, expected);
        for (shape, words) in heard {
            println!("played {words} words of the signal as {shape:?}, each the right one");
        }
    }
}

/// Until the VM's end: what was played, and how many words of the signal.
fn listen(socket: &OwnedFd, tell: &Sender<usize>) -> Vec<(Shape, u32)> {
    let mut runs = Vec::new();
    let mut current = 0;
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let (len, _) = recv(socket, &mut packet[..], RecvFlags::empty()).expect("a socket");
        if len == 0 {
            return runs;
        }
        let count = runs.len();
        match ToMixer::decode(&packet[..len]).expect("of the wire") {
            ToMixer::Begin { run, shape, .. } => {
                assert!(run > current, "{run} after {current}");
                current = run;
                runs.push((shape, 0));
            }
            ToMixer::Frames { run, samples } => {
                assert_eq!(run, current, "samples of a run that has ended");
                let (_, words) = runs.last_mut().expect("a run has begun");
                if *words == 0 {
                    tell.send(count).expect("somebody waits");
                }
                let (given, rest) = samples.as_chunks();
                assert_eq!(rest.len(), 0, "whole frames");
                for word in given {
                    assert_eq!(*word, signal::word(*words), "run {count}, word {words}");
                    *words += 1;
                }
            }
            ToMixer::End { run } => {
                assert_eq!(run, current);
                continue;
            }
        }
        let words = runs.last().map_or(0, |(_, words)| *words);
        let mut answer = Vec::new();
        let heard = ToVmm::Heard {
            run: current,
            total: u64::from(words) * 4,
            latency: 0,
        };
        heard.encode(&mut answer);
        // A VM that has just ended does not hear it.
        let _ = send(socket, &answer, SendFlags::NOSIGNAL);
    }
}
