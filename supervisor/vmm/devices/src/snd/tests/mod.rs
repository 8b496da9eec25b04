//! A sound card against drivers good and bad, and hosts good, slow and gone, with time in the test's hand.

mod life;
mod mixer;
mod playback;
mod queries;
mod random;
mod recording;
mod saved;

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_sound_wire::{MAX_FRAMES, Shape};
use rustix::event::{EventfdFlags, eventfd};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{Gone, Host, News, Sound, SoundHandle};
use crate::event_loop::EventLoop;
use crate::fake::{Activated, Descriptor, NEXT, WRITE};
use crate::lock;
use crate::rng::Clock;
use crate::scatter::View;
use crate::virtio::VirtioDevice as _;

const CONTROL: usize = 0;
const EVENTS: usize = 1;
const TX: usize = 2;
const RX: usize = 3;
const TIMER: u32 = 4;

const OK: u32 = 0x8000;
const BAD: u32 = 0x8001;
const UNSUPPORTED: u32 = 0x8002;
const IO_ERROR: u32 = 0x8003;

const SET: u32 = 0x101;
const PREPARE: u32 = 0x102;
const RELEASE: u32 = 0x103;
const START: u32 = 0x104;
const STOP: u32 = 0x105;

/// S16, 48 kHz, stereo: 192 bytes a millisecond.
const MILLI: u32 = 192;
const PERIOD: u32 = 10 * MILLI;
const BUFFER: u32 = 4 * PERIOD;

/// Where the test's driver keeps requests, events, and a message per slot.
const REQUEST: u64 = 0x8000;
const ANSWER: u64 = 0x9000;
const EVENT: u64 = 0xa000;
const SLOTS: u16 = 8;
const SLOT_LEN: u64 = 0x4000;
const STATUS_AT: u64 = SLOT_LEN - 8;

/// Time as the test says.
#[derive(Clone, Debug, Default)]
struct Hand(Arc<Mutex<Duration>>);

impl Clock for Hand {
    fn now(&self) -> Duration {
        *lock(&self.0)
    }
}

/// What a host was told, and what it is to say.
#[derive(Default)]
struct Script {
    begun: Vec<(u32, Shape, u32)>,
    ended: Vec<u32>,
    played: Vec<u8>,
    news: VecDeque<(News, Vec<u8>)>,
    /// Takes nothing any more.
    full: bool,
    gone: bool,
}

/// A host as the test says.
struct FakeHost {
    script: Arc<Mutex<Script>>,
    bell: OwnedFd,
}

/// The test's end of it.
#[derive(Clone)]
struct Far {
    script: Arc<Mutex<Script>>,
    bell: Arc<OwnedFd>,
}

fn host() -> (Box<dyn Host>, Far) {
    let script = Arc::new(Mutex::new(Script::default()));
    let bell = eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd");
    let far = Far {
        script: script.clone(),
        bell: Arc::new(bell.try_clone().expect("a descriptor")),
    };
    (Box::new(FakeHost { script, bell }), far)
}

impl FakeHost {
    fn check(&self) -> Result<(), Gone> {
        if lock(&self.script).gone {
            Err(Gone)
        } else {
            Ok(())
        }
    }
}

impl Host for FakeHost {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn begin(&mut self, run: u32, shape: Shape, period: u32) -> Result<bool, Gone> {
        self.check()?;
        let mut script = lock(&self.script);
        if script.full {
            return Ok(false);
        }
        script.begun.push((run, shape, period));
        Ok(true)
    }

    fn end(&mut self, run: u32) -> Result<bool, Gone> {
        self.check()?;
        lock(&self.script).ended.push(run);
        Ok(true)
    }

    fn play(
        &mut self,
        run: u32,
        memory: &GuestMemoryMmap,
        samples: View<'_>,
    ) -> Result<usize, Gone> {
        self.check()?;
        let mut script = lock(&self.script);
        let current = script.begun.last().map(|(run, ..)| *run);
        assert_eq!(Some(run), current, "samples of the current run");
        if script.full {
            return Ok(0);
        }
        let mut bytes = vec![0; samples.len()];
        assert_eq!(samples.read(memory, &mut bytes), bytes.len());
        script.played.extend(&bytes);
        Ok(bytes.len())
    }

    fn next(&mut self, into: &mut [u8; MAX_FRAMES]) -> Result<Option<News>, Gone> {
        self.check()?;
        let Some((news, samples)) = lock(&self.script).news.pop_front() else {
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            return Ok(None);
        };
        into[..samples.len()].copy_from_slice(&samples);
        Ok(Some(news))
    }
}

impl Far {
    fn run(&self) -> u32 {
        lock(&self.script).begun.last().expect("it has begun").0
    }

    fn runs(&self) -> usize {
        lock(&self.script).begun.len()
    }

    fn ended(&self) -> Vec<u32> {
        lock(&self.script).ended.clone()
    }

    fn played(&self) -> Vec<u8> {
        lock(&self.script).played.clone()
    }

    fn say(&self, news: News, samples: &[u8]) {
        lock(&self.script).news.push_back((news, samples.to_vec()));
        self.ring();
    }

    fn ring(&self) {
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).expect("not full");
    }

    /// So much was heard of the current run.
    fn hear(&self, total: u64, latency: u32) {
        let run = self.run();
        self.say(
            News::Heard {
                run,
                total,
                latency,
            },
            &[],
        );
    }

    fn record(&self, samples: &[u8]) {
        let news = News::Recorded {
            run: self.run(),
            len: samples.len(),
            latency: 0,
        };
        self.say(news, samples);
    }

    fn leave(&self) {
        lock(&self.script).gone = true;
        self.ring();
    }
}

/// A guest with a card.
struct Guest {
    activated: Activated,
    sound: Arc<Mutex<Sound>>,
    handle: SoundHandle,
    hand: Hand,
    /// Descriptors of the tables of tx and rx: two for each slot.
    tables: [Vec<Descriptor>; 2],
    /// How many used entries of each queue the test has seen.
    seen: [usize; 4],
}

/// A message given back: its slot, bytes written, status and latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Back {
    slot: u16,
    written: u32,
    status: u32,
    latency: u32,
}

fn slot_at(queue: usize, slot: u16) -> u64 {
    let queue = u64::try_from(queue - TX).expect("tx or rx");
    0x2_0000 + SLOT_LEN * (u64::from(SLOTS) * queue + u64::from(slot))
}

impl Guest {
    fn new(can_record: bool, speaker: Option<Box<dyn Host>>) -> Self {
        Self::restored(can_record, speaker, None).expect("nothing to restore")
    }

    fn restored(
        can_record: bool,
        speaker: Option<Box<dyn Host>>,
        saved: Option<&[u8]>,
    ) -> Result<Self, crate::state::StateError> {
        let hand = Hand::default();
        let mut device = Sound::new(can_record, speaker, Box::new(hand.clone())).expect("timer");
        if let Some(saved) = saved {
            device.restore(saved)?;
        }
        let handle = device.handle();
        let sound = Arc::new(Mutex::new(device));
        let event_loop = EventLoop::new().expect("epoll");
        let guest = Self {
            activated: Activated::with_event_indexes(event_loop, sound.clone()),
            sound,
            handle,
            hand,
            tables: [const { Vec::new() }; 2],
            seen: [0; 4],
        };
        guest.rest();
        Ok(guest)
    }

    fn rest(&self) {
        self.activated.rest();
        assert!(!self.activated.interrupt.is_broken());
        lock(&self.sound).verify_invariants();
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let memory = &self.activated.memory;
        memory
            .write_slice(bytes, GuestAddress(address))
            .expect("in memory");
    }

    fn read(&self, address: u64, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).expect("small")];
        let memory = &self.activated.memory;
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("in memory");
        bytes
    }

    fn word(&self, address: u64) -> u32 {
        let bytes = self.read(address, 4);
        u32::from_le_bytes(bytes.try_into().expect("four"))
    }

    fn new_used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let used = self.activated.used(queue);
        let fresh = used[self.seen[queue]..].to_vec();
        self.seen[queue] = used.len();
        self.activated.has_seen(queue);
        fresh
    }

    /// Sends a request with so much room for the answer; the answer as far as it was written.
    fn ask(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        self.write(REQUEST, request);
        let len = u32::try_from(request.len()).expect("small");
        let chain = [(REQUEST, len, NEXT, 1), (ANSWER, room, WRITE, 0)];
        self.activated.offer(CONTROL, &chain, &[0]);
        self.activated.kick(CONTROL);
        self.rest();
        let [(0, written)] = self.new_used(CONTROL)[..] else {
            panic!("one answer");
        };
        self.read(ANSWER, written)
    }

    /// A request of these words; the status that answers it.
    fn status(&mut self, words: &[u32]) -> u32 {
        let request: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let answer = self.ask(&request, 4);
        u32::from_le_bytes(answer.try_into().expect("a status"))
    }

    /// Parameters: channels, format and rate as virtio numbers them.
    fn set(&mut self, stream: u32, buffer: u32, period: u32, shape: [u8; 3]) -> u32 {
        let [channels, format, rate] = shape;
        let last = u32::from_le_bytes([channels, format, rate, 0]);
        self.status(&[SET, stream, buffer, period, 0, last])
    }

    /// Up to a running stream of the usual shape.
    fn start(&mut self, stream: u32) {
        assert_eq!(self.set(stream, BUFFER, PERIOD, [2, 5, 7]), OK);
        assert_eq!(self.status(&[PREPARE, stream]), OK);
        assert_eq!(self.status(&[START, stream]), OK);
    }

    /// Queues a message in a slot: for a stream, with samples or so much room for them.
    fn queue(&mut self, queue: usize, slot: u16, stream: u32, samples: &[u8]) {
        let at = slot_at(queue, slot);
        self.write(at, &stream.to_le_bytes());
        self.write(at + 4, samples);
        let len = u32::try_from(samples.len()).expect("small");
        let first = 2 * slot;
        let chain = if queue == TX {
            [
                (at, 4 + len, NEXT, first + 1),
                (at + STATUS_AT, 8, WRITE, 0),
            ]
        } else {
            // The status right after the room, in one piece.
            [(at, 4, NEXT, first + 1), (at + 4, len + 8, WRITE, 0)]
        };
        let table = &mut self.tables[queue - TX];
        table.resize(usize::from(2 * SLOTS), (0, 0, 0, 0));
        let place = usize::from(first);
        table[place..place + 2].copy_from_slice(&chain);
        self.activated.offer(queue, table, &[first]);
        self.activated.kick(queue);
        self.rest();
    }

    fn play(&mut self, slot: u16, samples: &[u8]) {
        self.queue(TX, slot, 0, samples);
    }

    /// Room for so many samples, all of which are ones.
    fn listen(&mut self, slot: u16, len: u32) {
        self.queue(RX, slot, 1, &vec![1; usize::try_from(len).expect("small")]);
    }

    /// Messages given back since the last look.
    fn back(&mut self, queue: usize) -> Vec<Back> {
        let used = self.new_used(queue);
        used.into_iter()
            .map(|(head, written)| {
                let slot = u16::try_from(head / 2).expect("small");
                let at = slot_at(queue, slot);
                let status = if queue == TX {
                    at + STATUS_AT
                } else {
                    let (_, len, ..) = self.tables[1][usize::from(2 * slot + 1)];
                    at + 4 + u64::from(len) - 8
                };
                Back {
                    slot,
                    written,
                    status: self.word(status),
                    latency: self.word(status + 4),
                }
            })
            .collect()
    }

    fn recorded(&self, slot: u16, len: u32) -> Vec<u8> {
        self.read(slot_at(RX, slot) + 4, len)
    }

    /// Time passes, and the timer rings at its end.
    fn pass(&self, millis: u64) {
        *lock(&self.hand.0) += Duration::from_millis(millis);
        self.activated.ready(TIMER);
        self.rest();
    }

    /// Gives buffers for events and returns the events that came: code and jack.
    fn events(&mut self) -> Vec<(u32, u32)> {
        let used = self.new_used(EVENTS);
        used.into_iter()
            .map(|(head, written)| {
                assert_eq!(written, 8);
                let at = EVENT + 8 * u64::from(head);
                (self.word(at), self.word(at + 4))
            })
            .collect()
    }

    fn offer_events(&self, heads: &[u16]) {
        let table: Vec<_> = (0..16)
            .map(|slot| (EVENT + 8 * slot, 8, WRITE, 0))
            .collect();
        self.activated.offer(EVENTS, &table, heads);
        self.activated.kick(EVENTS);
        self.rest();
    }
}

/// Samples that differ from each other.
fn samples(seed: u8, len: u32) -> Vec<u8> {
    let len = usize::try_from(len).expect("small");
    (0..len)
        .map(|at| {
            u8::try_from(at % 251)
                .expect("below 251")
                .wrapping_add(seed)
        })
        .collect()
}
