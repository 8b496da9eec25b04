//! The device: its queues, its timer, and who tells it what.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use super::flow::{Playing, Recording};
use super::handle::{Mail, Mailbox, SoundHandle};
use super::host::Host;
use super::line::{Line, Turn};
use super::message::Status;
use super::parameters::Direction;
use super::state::Saved;
use crate::config_space;
use crate::event_loop::{Interest, Ready, Registrar};
use crate::lock;
use crate::rng::Clock;
use crate::scatter::Buffers;
use crate::state::{QueuePosition, StateError};
use crate::throttle::Throttle;
use crate::virtio::{ActivateError, Activation, ActiveQueue, Memory, QueueError, VirtioDevice};

/// The virtio device number.
const DEVICE_TYPE: u32 = 25;
/// Control, events, tx, rx. The sizes bound what a guest can have waiting.
const QUEUES: [u16; 4] = [64, 64, 64, 64];

const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;

const CONTROL: u32 = 0;
const EVENTS: u32 = 1;
const TX: u32 = 2;
const RX: u32 = 3;
const TIMER: u32 = 4;
const MAIL: u32 = 5;
const SPEAKER: u32 = 6;
const MICROPHONE: u32 = 7;

/// A virtio sound card.
pub struct Sound {
    /// Whether there is a stream to record at all; constant.
    pub(super) can_record: bool,
    pub(super) clock: Box<dyn Clock>,
    timer: TimerFd,
    mailbox: Arc<Mailbox>,
    /// Of an I/O message or an event, and of a request.
    pub(super) buffers: Buffers,
    pub(super) request: Buffers,
    warnings: Throttle,
    pub(super) playback: Line<Playing>,
    pub(super) capture: Line<Recording>,
    /// Whether the guest thinks that a microphone is plugged in.
    pub(super) told: bool,
    /// Whether the mailbox is watched.
    gets_mail: bool,
    /// What the guest thinks comes from a snapshot, not from this device.
    restored: bool,
    active: Option<Active>,
}

pub(super) struct Active {
    pub(super) memory: Memory,
    pub(super) control: ActiveQueue,
    pub(super) events: ActiveQueue,
    pub(super) tx: ActiveQueue,
    pub(super) rx: ActiveQueue,
}

impl fmt::Debug for Sound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sound")
            .field("playback", &self.playback)
            .field("capture", &self.capture)
            .finish_non_exhaustive()
    }
}

impl Active {
    fn queues(&self) -> [&ActiveQueue; 4] {
        [&self.control, &self.events, &self.tx, &self.rx]
    }
}

impl Sound {
    /// A card that plays to `speaker`, or to nobody, and shows a stream to record only if `can_record`; that is silent
    /// until [`SoundHandle::grant`]. `clock` is used when the hosts say nothing.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new(
        can_record: bool,
        speaker: Option<Box<dyn Host>>,
        clock: Box<dyn Clock>,
    ) -> io::Result<Self> {
        let mailbox = Mailbox::new()?;
        lock(&mailbox.mail).speaker = speaker;
        Ok(Self {
            can_record,
            clock,
            timer: TimerFd::new()?,
            mailbox: Arc::new(mailbox),
            buffers: Buffers::default(),
            request: Buffers::default(),
            warnings: Throttle::default(),
            playback: Line::new(),
            capture: Line::new(),
            told: false,
            gets_mail: false,
            restored: false,
            active: None,
        })
    }

    /// Changes who hears and who is heard.
    pub fn handle(&self) -> SoundHandle {
        SoundHandle(Arc::clone(&self.mailbox))
    }

    /// The streams, jacks and channel maps that the guest sees, by number.
    pub(super) fn directions(&self) -> &'static [Direction] {
        if self.can_record {
            &Direction::ALL
        } else {
            Direction::ALL.split_at(1).0
        }
    }

    fn take_mail(&mut self, now: Duration, registrar: &mut Registrar<'_>) {
        let Mail {
            speaker,
            microphone,
        } = std::mem::take(&mut *lock(&self.mailbox.mail));
        if let Some(host) = speaker {
            self.playback.attach(Some(host), now, registrar);
        }
        if let Some(host) = microphone
            && self.can_record
        {
            self.capture.attach(host, now, registrar);
        }
    }

    /// One turn after any event. Every part finds out for itself whether there is something to do.
    fn turn(
        &mut self,
        active: &mut Active,
        now: Duration,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), QueueError> {
        let control = self.control_turn(active)?;
        let Active { memory, tx, rx, .. } = active;
        let more_tx = self.playback.take_messages(tx, memory, &mut self.buffers)?;
        let more_rx = self.capture.take_messages(rx, memory, &mut self.buffers)?;
        let played = self.playback.turn(now, tx, memory, registrar, SPEAKER)?;
        let recorded = self.capture.turn(now, rx, memory, registrar, MICROPHONE)?;
        let events = self.event_turn(active)?;
        for (turn, queue) in [
            (more_tx, &active.tx),
            (more_rx, &active.rx),
            (control, &active.control),
            (played, &active.tx),
            (recorded, &active.rx),
            (events, &active.events),
        ] {
            if turn == Turn::BudgetSpent {
                queue.kick_again();
            }
        }
        Ok(())
    }

    /// Wakes the device when something is due.
    fn set_timer(&mut self, now: Duration) {
        let waits = [self.playback.wait(now), self.capture.wait(now)];
        let set = match waits.into_iter().flatten().min() {
            Some(wait) => self.timer.reset(wait, None),
            None => self.timer.clear(),
        };
        if let Err(error) = set
            && self.warnings.allows(Instant::now())
        {
            tracing::error!(%error, "timer of the sound device");
        }
    }

    fn deactivate(&mut self, active: &Active, registrar: &mut Registrar<'_>) {
        let _ = self.timer.clear();
        for queue in active.queues() {
            let _ = registrar.remove(&queue.kick);
        }
        let _ = registrar.remove(&self.timer);
        self.forget_driver(registrar);
    }

    /// Streams are new again; hosts and mail stay.
    fn forget_driver(&mut self, registrar: &mut Registrar<'_>) {
        self.playback.reset(registrar);
        self.capture.reset(registrar);
        self.told = false;
        // On the loop's thread the hosts are told. Fails only when the counter is full, and then the loop is awake.
        let _ = self.mailbox.wake.write(1);
    }

    /// What is true between any two turns.
    #[cfg(test)]
    pub(super) fn verify_invariants(&self) {
        self.playback.verify_invariants();
        self.capture.verify_invariants();
        if !self.can_record {
            assert!(!self.capture.has_host() && !self.told);
        }
    }
}

impl VirtioDevice for Sound {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        RING_INDIRECT_DESC | RING_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Jacks, streams and channel maps: one of each for a direction.
        let count = u8::try_from(self.directions().len()).unwrap_or(0);
        let space = [count, 0, 0, 0, count, 0, 0, 0, count, 0, 0, 0];
        config_space::read(&space, offset, data);
    }

    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let memory = Memory::clone(&activation.memory);
        let [control, events, tx, rx] = activation.queues_exactly()?;
        let now = self.clock.now();
        self.take_mail(now, registrar);
        if !std::mem::take(&mut self.restored) {
            // The driver asks before it can be wrong.
            self.told = self.capture.has_host();
        }
        self.playback.activate(now);
        self.capture.activate(now);
        // Kept before they are watched: a reset after a failure takes back what was.
        let active = self.active.insert(Active {
            memory,
            control,
            events,
            tx,
            rx,
        });
        for (token, queue) in [CONTROL, EVENTS, TX, RX].into_iter().zip(active.queues()) {
            registrar.add(&queue.kick, token, Interest::Read)?;
            queue.kick_again();
        }
        registrar.add(&self.timer, TIMER, Interest::Read)?;
        // For ever: grants are given and taken back while there is no driver, too.
        if !self.gets_mail {
            registrar.add(&self.mailbox.wake, MAIL, Interest::Read)?;
            self.gets_mail = true;
        }
        Ok(())
    }

    fn handle(&mut self, token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        let now = self.clock.now();
        if token == MAIL {
            let _ = self.mailbox.wake.read();
        }
        // Whatever the event: a grant that was taken back must not be used once more.
        self.take_mail(now, registrar);
        self.playback.catch_up();
        self.capture.catch_up();
        // Taken out while in use, because a turn also needs the streams.
        let Some(mut active) = self.active.take() else {
            return;
        };
        match token {
            CONTROL => active.control.drain_kick(),
            EVENTS => active.events.drain_kick(),
            TX => active.tx.drain_kick(),
            RX => active.rx.drain_kick(),
            // One shot: disarmed, it is no longer ready.
            TIMER => drop(self.timer.clear()),
            _ => {}
        }
        match self.turn(&mut active, now, registrar) {
            Ok(()) => {
                self.active = Some(active);
                self.set_timer(now);
            }
            Err(error) => {
                if self.warnings.allows(Instant::now()) {
                    tracing::warn!(%error, "a queue of the sound device is unusable");
                }
                self.deactivate(&active, registrar);
                active.control.interrupt.needs_reset();
            }
        }
    }

    /// Gives back what waits: the messages' samples are lost, and the streams go on.
    fn quiesce(&mut self) -> io::Result<()> {
        let Some(mut active) = self.active.take() else {
            return Ok(());
        };
        let Active { memory, tx, rx, .. } = &mut active;
        // Rings that are broken are so at the next turn as well, where the driver is told.
        let _ = self.playback.give_back(Status::Ok, tx, memory);
        let _ = self.capture.give_back(Status::Ok, rx, memory);
        self.active = Some(active);
        Ok(())
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let active = self.active.iter();
        active
            .flat_map(Active::queues)
            .map(ActiveQueue::position)
            .collect()
    }

    fn save(&self) -> Vec<u8> {
        let saved = Saved {
            can_record: self.can_record,
            told: self.told,
            streams: [self.playback.stream(), self.capture.stream()],
        };
        saved.encode()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        let saved = Saved::decode(saved)?;
        if saved.can_record != self.can_record {
            return Err(StateError::Other(
                "it can record in one of the two VMs only".to_owned(),
            ));
        }
        let [playback, capture] = saved.streams;
        self.playback.restore(playback);
        self.capture.restore(capture);
        self.told = saved.told;
        self.restored = true;
        Ok(())
    }

    fn reset(&mut self, registrar: &mut Registrar<'_>) {
        if let Some(active) = self.active.take() {
            self.deactivate(&active, registrar);
        } else {
            self.forget_driver(registrar);
        }
        self.restored = false;
    }
}
