//! Random lists of everything that can happen, with what must be true after each.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Command {
        stream: u32,
        command: u32,
    },
    Set {
        stream: u32,
        period: u32,
        format: u8,
    },
    Play {
        slot: u16,
        frames: u32,
    },
    Listen {
        slot: u16,
        frames: u32,
    },
    Pass(u64),
    Heard {
        more: u64,
        latency: u32,
    },
    Recorded {
        frames: u32,
    },
    Full(bool),
    Speaker,
    SpeakerLeaves,
    Grant,
    Revoke,
    MicrophoneLeaves,
    Events(u16),
    Restart,
    Clone,
}

fn op() -> impl Strategy<Value = Op> {
    let command = prop_oneof![Just(PREPARE), Just(START), Just(STOP), Just(RELEASE)];
    prop_oneof![
        6 => (0_u32..3, command).prop_map(|(stream, command)| Op::Command { stream, command }),
        3 => (0_u32..2, prop_oneof![Just(PERIOD), Just(384), Just(0)], prop_oneof![Just(5_u8), Just(19), Just(4)])
            .prop_map(|(stream, period, format)| Op::Set { stream, period, format }),
        6 => (0..SLOTS, 0_u32..700).prop_map(|(slot, frames)| Op::Play { slot, frames }),
        6 => (0..SLOTS, 0_u32..700).prop_map(|(slot, frames)| Op::Listen { slot, frames }),
        6 => (0_u64..400).prop_map(Op::Pass),
        4 => (0_u64..8000, any::<u32>()).prop_map(|(more, latency)| Op::Heard { more, latency }),
        4 => (0_u32..900).prop_map(|frames| Op::Recorded { frames }),
        1 => any::<bool>().prop_map(Op::Full),
        1 => Just(Op::Speaker),
        1 => Just(Op::SpeakerLeaves),
        2 => Just(Op::Grant),
        2 => Just(Op::Revoke),
        1 => Just(Op::MicrophoneLeaves),
        1 => (0_u16..16).prop_map(Op::Events),
        1 => Just(Op::Restart),
        1 => Just(Op::Clone),
    ]
}

/// The test's side of everything.
struct World {
    guest: Guest,
    speaker: Far,
    microphone: Option<Far>,
    total: u64,
    /// Which slots of tx and rx the device holds.
    held: [[bool; SLOTS as usize]; 2],
    granted: bool,
}

impl World {
    fn new() -> Self {
        let (host, speaker) = host();
        Self {
            guest: Guest::new(true, Some(host)),
            speaker,
            microphone: None,
            total: 0,
            held: [[false; SLOTS as usize]; 2],
            granted: false,
        }
    }

    /// Takes back what was given back: each slot at most once, and only what was queued.
    fn collect(&mut self) {
        for queue in [TX, RX] {
            for back in self.guest.back(queue) {
                let held = &mut self.held[queue - TX][usize::from(back.slot)];
                assert!(std::mem::take(held), "slot {} was not queued", back.slot);
                assert!(back.status == OK || back.status == IO_ERROR);
                if queue == TX {
                    assert_eq!(back.written, 8);
                } else if back.written > 8 && !self.granted {
                    let len = back.written - 8;
                    let heard = self.guest.recorded(back.slot, len);
                    assert!(heard.iter().all(|byte| *byte == 0), "only silence");
                }
            }
        }
    }

    fn queue(&mut self, queue: usize, slot: u16, frames: u32) {
        if self.held[queue - TX][usize::from(slot)] {
            return;
        }
        self.held[queue - TX][usize::from(slot)] = true;
        let data = vec![0x55; usize::try_from(4 * frames).expect("small")];
        let stream = u32::try_from(queue - TX).expect("small");
        self.guest.queue(queue, slot, stream, &data);
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Command { stream, command } => {
                let status = self.guest.status(&[command, stream]);
                assert!(status == OK || status == BAD);
                self.collect();
                if status == OK && command == RELEASE {
                    let held = self.held[usize::try_from(stream).expect("small")];
                    assert!(held.iter().all(|held| !held), "all were given back before");
                }
            }
            Op::Set {
                stream,
                period,
                format,
            } => {
                let status = self.guest.set(stream, 4 * period, period, [2, format, 7]);
                assert!(status != OK || (period != 0 && format != 4));
            }
            Op::Play { slot, frames } => self.queue(TX, slot, frames),
            Op::Listen { slot, frames } => self.queue(RX, slot, frames),
            Op::Pass(millis) => self.guest.pass(millis),
            Op::Heard { more, latency } => {
                if self.speaker.runs() > 0 {
                    self.total = self.total.wrapping_add(more);
                    self.speaker.hear(self.total, latency);
                }
            }
            Op::Recorded { frames } => {
                if let Some(far) = &self.microphone
                    && far.runs() > 0
                {
                    let len = usize::try_from(4 * frames).expect("small");
                    far.record(&vec![0x77; len]);
                }
            }
            Op::Full(full) => lock(&self.speaker.script).full = full,
            Op::Speaker => {
                let (host, far) = host();
                self.guest.handle.attach_speaker(host);
                (self.speaker, self.total) = (far, 0);
            }
            Op::SpeakerLeaves => self.speaker.leave(),
            Op::Grant => {
                let (host, far) = host();
                self.collect();
                self.guest.handle.grant(host);
                (self.microphone, self.granted) = (Some(far), true);
            }
            Op::Revoke => {
                self.guest.rest();
                self.collect();
                self.guest.handle.revoke();
                self.granted = false;
            }
            Op::MicrophoneLeaves => {
                if let Some(far) = &self.microphone {
                    far.leave();
                }
            }
            Op::Events(head) => {
                self.guest.offer_events(&[head]);
                self.guest.events();
            }
            Op::Restart => {
                self.guest.activated.restart();
                self.guest.seen = [0; 4];
                self.held = Default::default();
            }
            Op::Clone => {
                let saved = {
                    let mut sound = lock(&self.guest.sound);
                    sound.quiesce().expect("nothing to fail");
                    sound.save()
                };
                self.collect();
                assert_eq!(self.held, <[[bool; SLOTS as usize]; 2]>::default());
                let (host, far) = host();
                (self.speaker, self.total) = (far, 0);
                (self.microphone, self.granted) = (None, false);
                self.guest = Guest::restored(true, Some(host), Some(&saved)).expect("ours");
            }
        }
        self.guest.rest();
        self.collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens_the_card_is_whole(ops in proptest::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in &ops {
            world.act(op);
        }
        // Whatever was queued comes back in the end, if only because the streams are released.
        for stream in [0, 1] {
            world.guest.status(&[STOP, stream]);
            world.guest.status(&[RELEASE, stream]);
        }
        world.collect();
        prop_assert_eq!(world.held, <[[bool; SLOTS as usize]; 2]>::default());
    }
}
