//! The mixer's wire, with a mixer at its other end that keeps all it hears.

use casemate_sound_wire::{MAX_PACKET, ToMixer, ToVmm};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use super::super::Mixer;
use super::*;

/// A peer that records.
struct Peer {
    socket: OwnedFd,
    run: u32,
    heard: Vec<u8>,
    begun: Vec<(Shape, u32)>,
    ended: usize,
}

fn mixer() -> (Box<dyn Host>, Peer) {
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::NONBLOCK,
        None,
    )
    .expect("sockets");
    let peer = Peer {
        socket: far,
        run: 0,
        heard: Vec::new(),
        begun: Vec::new(),
        ended: 0,
    };
    (Box::new(Mixer::new(near)), peer)
}

impl Peer {
    /// Takes all that is there.
    fn read(&mut self) {
        let mut packet = vec![0; MAX_PACKET + 1];
        while let Ok((len, _)) =
            rustix::net::recv(&self.socket, &mut packet[..], RecvFlags::DONTWAIT)
        {
            match ToMixer::decode(&packet[..len]).expect("of the wire") {
                ToMixer::Begin { run, shape, period } => {
                    assert!(run > self.run);
                    self.run = run;
                    self.begun.push((shape, period));
                }
                ToMixer::Frames { run, samples } => {
                    assert_eq!(run, self.run);
                    self.heard.extend(samples);
                }
                ToMixer::End { run } => {
                    assert_eq!(run, self.run);
                    self.ended += 1;
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) {
        rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL).expect("room");
    }

    fn say(&self, message: ToVmm<'_>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send(&bytes);
    }
}

#[test]
fn what_the_guest_plays_arrives() {
    let (speaker, mut peer) = mixer();
    let mut guest = Guest::new(false, Some(speaker));
    assert_eq!(guest.set(0, 0x2_0000, 0x2000, [2, 19, 6]), OK);
    assert_eq!(guest.status(&[PREPARE, 0]), OK);
    assert_eq!(guest.status(&[START, 0]), OK);
    // Longer than a packet.
    let all: Vec<u8> = (0..3).flat_map(|slot| samples(slot, 0x3000)).collect();
    for (slot, part) in (0..).zip(all.chunks(0x3000)) {
        guest.play(slot, part);
    }
    peer.read();
    assert_eq!(peer.heard, all);
    assert_eq!(peer.begun[0].0.bytes_per_second(), 352_800);
    assert_eq!(peer.begun[0].1, 0x2000);
    guest.pass(10);
    peer.say(ToVmm::Heard {
        run: peer.run,
        total: 0x6000,
        latency: 80,
    });
    guest.rest();
    let back = guest.back(TX);
    assert_eq!(back.len(), 2);
    assert_eq!(back[1].latency, 80);
    assert_eq!(guest.status(&[STOP, 0]), OK);
    peer.read();
    assert_eq!(peer.ended, 1);
}

#[test]
fn what_the_microphone_hears_arrives() {
    let (microphone, mut peer) = mixer();
    let mut guest = Guest::new(true, None);
    guest.handle.grant(microphone);
    guest.start(1);
    peer.read();
    guest.listen(0, PERIOD);
    let voice = samples(7, PERIOD);
    peer.say(ToVmm::Frames {
        run: peer.run,
        latency: 4,
        samples: &voice,
    });
    guest.rest();
    assert_eq!(guest.back(RX)[0].latency, 4);
    assert_eq!(guest.recorded(0, PERIOD), voice);
    assert_eq!(guest.status(&[STOP, 1]), OK);
    peer.read();
    assert_eq!(peer.ended, 1);
    // The descriptor is closed with the grant.
    guest.handle.revoke();
    guest.rest();
    let closed = rustix::net::recv(&peer.socket, &mut [0; 8][..], RecvFlags::DONTWAIT);
    assert_eq!(closed.map(|(len, _)| len), Ok(0));
}

#[test]
fn a_mixer_that_does_not_read_holds_nobody_up() {
    let (speaker, mut peer) = mixer();
    let mut guest = Guest::new(false, Some(speaker));
    assert_eq!(guest.set(0, 0x3_0000, 0x3000, [2, 19, 7]), OK);
    assert_eq!(guest.status(&[PREPARE, 0]), OK);
    assert_eq!(guest.status(&[START, 0]), OK);
    let mut given_back = 0;
    for slot in 0..SLOTS {
        guest.play(slot, &samples(0, 0x3000));
    }
    for _ in 0..400 {
        guest.pass(20);
        for back in guest.back(TX) {
            given_back += 1;
            guest.play(back.slot, &samples(0, 0x3000));
        }
    }
    // Eight seconds are 250 such messages, less a stall each two seconds.
    assert!((200..=250).contains(&given_back), "{given_back}");
    peer.read();
    assert!(peer.heard.len() <= usize::try_from(casemate_sound_wire::MAX_AHEAD).expect("small"));
}

#[test]
fn what_is_not_of_the_wire_ends_the_connection() {
    for packet in [
        [9; 24].as_slice(),
        &[4, 0, 0, 0],
        &[1; 1],
        &[4; MAX_PACKET + 1],
        &[3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
    ] {
        let (speaker, peer) = mixer();
        let mut guest = Guest::new(false, Some(speaker));
        guest.start(0);
        guest.play(0, &samples(0, PERIOD));
        peer.send(packet);
        guest.rest();
        guest.pass(10);
        assert_eq!(guest.back(TX).len(), 1, "by the own clock");
        let mut bytes = [0; MAX_PACKET];
        while rustix::net::recv(&peer.socket, &mut bytes[..], RecvFlags::DONTWAIT)
            .expect("closed")
            .0
            != 0
        {}
    }
}

#[test]
fn a_mixer_that_has_ended_is_noticed_and_not_again() {
    let (speaker, peer) = mixer();
    let mut guest = Guest::new(false, Some(speaker));
    drop(peer);
    // It is only looked for when it is needed.
    guest.rest();
    guest.start(0);
    guest.play(0, &samples(0, PERIOD));
    guest.pass(10);
    assert_eq!(guest.back(TX).len(), 1);
}
