//! The sound card under hostile queues, with a mixer at the other end that answers. Whatever the guest queues, only whole
//! frames of a run that has begun go out, no more than may be on their way; and without a grant nothing is asked for.
#![no_main]

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use casemate_devices::rng::Clock;
use casemate_devices::snd::{Host, Mixer, Sound};
use casemate_fuzz::driver;
use casemate_sound_wire::{MAX_AHEAD, MAX_PACKET, Shape, ToMixer, ToVmm};
use libfuzzer_sys::fuzz_target;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Some milliseconds pass whenever anyone looks.
#[derive(Debug, Default)]
struct Ticking(Mutex<Duration>);

impl Clock for Ticking {
    fn now(&self) -> Duration {
        let mut now = self.0.lock().expect("one thread");
        *now += Duration::from_millis(3);
        *now
    }
}

/// The mixer's end of one direction.
struct Peer {
    socket: OwnedFd,
    run: Option<(u32, Shape)>,
    last: u32,
    total: u64,
}

fn peer() -> (Box<dyn Host>, Peer) {
    let (near, far) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::NONBLOCK,
        None,
    )
    .expect("sockets");
    let peer = Peer {
        socket: far,
        run: None,
        last: 0,
        total: 0,
    };
    (Box::new(Mixer::new(near)), peer)
}

impl Peer {
    /// Takes what is there; returns how many bytes of samples were new.
    fn read(&mut self) -> u64 {
        let mut packet = vec![0; MAX_PACKET + 1];
        let before = self.total;
        while let Ok((len, _)) =
            rustix::net::recv(&self.socket, &mut packet[..], RecvFlags::DONTWAIT)
        {
            if len == 0 {
                break;
            }
            match ToMixer::decode(&packet[..len]).expect("of the wire") {
                ToMixer::Begin { run, shape, .. } => {
                    assert!(run > self.last, "runs are counted");
                    self.last = run;
                    self.run = Some((run, shape));
                    self.total = 0;
                }
                ToMixer::End { run } => {
                    let (current, _) = self.run.take().expect("one has begun");
                    assert_eq!(run, current);
                }
                ToMixer::Frames { run, samples } => {
                    let (current, shape) = self.run.expect("one has begun");
                    assert_eq!(run, current);
                    let frame = usize::try_from(shape.frame_bytes()).expect("small");
                    assert_eq!(samples.len() % frame, 0, "whole frames");
                    self.total += u64::try_from(samples.len()).expect("small");
                }
            }
        }
        self.total.saturating_sub(before)
    }

    fn say(&self, message: ToVmm<'_>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&self.socket, &bytes, flags);
    }
}

fuzz_target!(|input: &[u8]| {
    let (speaker, mut hears) = peer();
    let clock = Box::new(Ticking::default());
    let device = Sound::new(true, Some(speaker), clock).expect("timer");
    let handle = device.handle();
    let mut speaks = None;
    if input.first().is_some_and(|flags| flags & driver::OWN != 0) {
        let (microphone, end) = peer();
        handle.grant(microphone);
        speaks = Some(end);
    }
    driver::play(device, input, || {
        assert!(hears.read() <= MAX_AHEAD.into(), "too much on its way");
        if let Some((run, _)) = hears.run {
            hears.say(ToVmm::Heard {
                run,
                total: hears.total,
                latency: 1,
            });
        }
        if let Some(end) = &mut speaks {
            assert_eq!(end.read(), 0, "nothing is played to a microphone");
            if let Some((run, _)) = end.run {
                end.say(ToVmm::Frames {
                    run,
                    latency: 0,
                    samples: &[0x11; 1024],
                });
            }
        }
    });
    hears.read();
});
