//! The device: moves frames between its queues and its wire.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use casemate_vmm_control::MacAddress;

use super::config;
use super::frame::{self, MAX_FRAME};
use super::offload::{Allowed, HEADER, Offload};
use super::receive::{End, Receiver};
use super::wire::{Sent, Wire};
use super::{Counters, Loss};
use crate::config_space;
use crate::event_loop::{Interest, Ready, Registrar};
use crate::scatter::Buffers;
use crate::state::{QueuePosition, StateError};
use crate::throttle::Throttle;
use crate::virtio::{
    ActivateError, Activation, ActiveQueue, MAX_QUEUE_SIZE, Memory, QueueError, VirtioDevice,
};

/// The virtio device number.
const DEVICE_TYPE: u32 = 1;
/// Receive, transmit.
const QUEUES: [u16; 2] = [MAX_QUEUE_SIZE, MAX_QUEUE_SIZE];

const RX: u32 = 0;
const TX: u32 = 1;
const WIRE: u32 = 2;

/// Bytes of a frame that are copied before they are checked: Ethernet, IP with options or extensions, TCP.
/// A frame whose headers are longer cannot be left to the receiver to cut.
const HEAD: usize = 256;

/// Frames in one direction and turn, so that a full wire does not hold the loop.
const TURN: usize = 64;

/// A virtio-net device.
pub struct Net {
    mac: MacAddress,
    wire: Wire,
    up: bool,
    /// The driver is to look at the configuration again: link and address may be others than before a restore.
    restored: bool,
    counters: Arc<Counters>,
    receiver: Receiver,
    buffers: Buffers,
    warnings: Throttle,
    active: Option<Active>,
}

struct Active {
    memory: Memory,
    rx: ActiveQueue,
    tx: ActiveQueue,
    allowed: Allowed,
    /// The wire has no room for the frame at the front of the transmit queue.
    tx_blocked: bool,
    watched: Option<Interest>,
}

impl fmt::Debug for Net {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Net")
            .field("mac", &self.mac)
            .field("wire", &self.wire)
            .field("up", &self.up)
            .finish_non_exhaustive()
    }
}

impl Net {
    /// A device with this address on this wire.
    pub fn new(mac: MacAddress, wire: Wire) -> Self {
        Self {
            mac,
            wire,
            up: true,
            restored: false,
            counters: Arc::default(),
            receiver: Receiver::new(),
            buffers: Buffers::default(),
            warnings: Throttle::default(),
            active: None,
        }
    }

    /// What was moved and lost since the device was made.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    fn transmit(&mut self, active: &mut Active) -> Result<(), QueueError> {
        if !self.wire.flush() {
            active.tx_blocked = true;
            return Ok(());
        }
        active.tx_blocked = false;
        let taken = self.take_frames(active);
        // What has no room is sent when there is some again.
        self.wire.flush();
        taken
    }

    fn take_frames(&mut self, active: &mut Active) -> Result<(), QueueError> {
        let Active { memory, tx, .. } = active;
        for _ in 0..TURN {
            let Some(chain) = tx.pop(memory)? else {
                if tx.rearm(memory)? {
                    continue;
                }
                return tx.notify(memory);
            };
            let head = chain.head_index();
            let outcome = match self.buffers.load(chain, memory) {
                Ok(()) => send(
                    &mut self.wire,
                    &self.buffers,
                    memory,
                    self.mac,
                    active.allowed,
                ),
                Err(_bad) => Err(Loss::BadChain),
            };
            match outcome {
                Ok(Sent::Yes) => self.counters.count_sent(),
                Ok(Sent::Later) => {
                    tx.put_back(head);
                    active.tx_blocked = true;
                    return tx.notify(memory);
                }
                Ok(Sent::Gone) => {
                    self.counters.count_lost(Loss::Unplugged);
                    self.up = false;
                }
                Err(why) => self.counters.count_lost(why),
            }
            tx.complete(memory, head, 0)?;
        }
        tx.kick_again();
        tx.notify(memory)
    }

    fn receive(&mut self, active: &mut Active) -> Result<(), QueueError> {
        if !self.up {
            return Ok(());
        }
        let Active { memory, rx, .. } = active;
        let end = self
            .receiver
            .turn(&mut self.wire, rx, memory, &self.counters, TURN)?;
        match end {
            End::Quiet | End::NoBuffers => {}
            // Not only the wire: a stream may hold frames that the kernel no longer reports.
            End::BudgetSpent => rx.kick_again(),
            End::Gone => self.up = false,
        }
        rx.notify(memory)
    }

    fn turn(
        &mut self,
        active: &mut Active,
        token: u32,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), QueueError> {
        let was_up = self.up;
        if token == TX || (token == WIRE && (active.tx_blocked || self.wire.is_behind())) {
            self.transmit(active)?;
        }
        if token != TX {
            self.receive(active)?;
        }
        if was_up && !self.up {
            // Pulled out: what waits in the queue is lost like what follows.
            active.tx.kick_again();
            active.tx.interrupt.config_changed();
        }
        self.watch(active, registrar);
        Ok(())
    }

    /// Watches the wire for what is needed now.
    fn watch(&mut self, active: &mut Active, registrar: &mut Registrar<'_>) {
        let read = !self.receiver.is_full();
        let write = active.tx_blocked || self.wire.is_behind();
        let wanted = match (self.up, read, write) {
            // Not "nothing": the other end's leaving would be reported for ever.
            (false, ..) | (_, false, false) => None,
            (_, true, false) => Some(Interest::Read),
            (_, false, true) => Some(Interest::Write),
            (_, true, true) => Some(Interest::ReadWrite),
        };
        let wire = self.wire.descriptor();
        let result = match (active.watched, wanted) {
            (now, wanted) if now == wanted => return,
            (_, None) => registrar.remove(&wire),
            (None, Some(interest)) => registrar.add(&wire, WIRE, interest),
            (Some(_), Some(interest)) => registrar.modify(&wire, WIRE, interest),
        };
        active.watched = wanted;
        if let Err(error) = result
            && self.warnings.allows(Instant::now())
        {
            tracing::warn!(mac = %self.mac, %error, "a network's wire cannot be watched");
        }
    }

    fn deactivate(&mut self, active: &Active, registrar: &mut Registrar<'_>) {
        let _ = registrar.remove(&active.rx.kick);
        let _ = registrar.remove(&active.tx.kick);
        if active.watched.is_some() {
            let _ = registrar.remove(&self.wire.descriptor());
        }
    }
}

/// Checks the frame of a loaded chain and sends it.
fn send(
    wire: &mut Wire,
    buffers: &Buffers,
    memory: &Memory,
    mac: MacAddress,
    allowed: Allowed,
) -> Result<Sent, Loss> {
    if !buffers.writable().is_empty() {
        return Err(Loss::BadChain);
    }
    let bytes = buffers.readable();
    let header = bytes.read_array::<HEADER>(memory).ok_or(Loss::Length)?;
    let frame = bytes.after(HEADER);
    frame::length(frame.len())?;
    debug_assert!(frame.len() <= MAX_FRAME);
    // What is checked is what is sent: another vCPU may be writing to the same memory.
    let mut copy = [0; HEAD];
    let count = frame.read(memory, &mut copy);
    let head = copy.get(..count).unwrap_or_default();
    let kind = frame::ethertype(head, Some(mac.bytes()))?;
    let mut offload = Offload::decode(&header, head, frame.len(), kind, allowed)?;
    // Not for a guest to say.
    offload.valid = false;
    Ok(wire.send(&offload.encode(), head, memory, frame.after(count)))
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        config::features(self.wire.carries_offloads())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&config::encode(self.mac, self.up), offset, data);
    }

    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let memory = Memory::clone(&activation.memory);
        let features = activation.features;
        let [rx, tx] = activation.queues_exactly()?;
        self.receiver.restart(features);
        // Kept before they are watched: a reset after a failure takes back what was.
        let active = self.active.insert(Active {
            memory,
            rx,
            tx,
            allowed: Allowed::to_host(features),
            tx_blocked: false,
            watched: None,
        });
        registrar.add(&active.rx.kick, RX, Interest::Read)?;
        registrar.add(&active.tx.kick, TX, Interest::Read)?;
        // The first turn of each queue also begins to watch the wire.
        active.rx.kick_again();
        active.tx.kick_again();
        Ok(())
    }

    fn handle(&mut self, token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        match token {
            RX => active.rx.drain_kick(),
            TX => active.tx.drain_kick(),
            _ => {}
        }
        if std::mem::take(&mut self.restored) {
            active.rx.interrupt.config_changed();
        }
        match self.turn(&mut active, token, registrar) {
            Ok(()) => self.active = Some(active),
            Err(error) => {
                if self.warnings.allows(Instant::now()) {
                    tracing::warn!(mac = %self.mac, %error, "a queue of the network is unusable");
                }
                self.deactivate(&active, registrar);
                active.rx.interrupt.needs_reset();
            }
        }
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let active = self.active.iter();
        active
            .flat_map(|active| [&active.rx, &active.tx])
            .map(ActiveQueue::position)
            .collect()
    }

    /// Only that it is one: the wire is new, its link is up, and frames on their way are lost, as frames may be.
    fn save(&self) -> Vec<u8> {
        vec![1]
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        if saved != [1] {
            return Err(StateError::Unfit("the network's own state"));
        }
        self.restored = true;
        Ok(())
    }

    fn reset(&mut self, registrar: &mut Registrar<'_>) {
        if let Some(active) = self.active.take() {
            self.deactivate(&active, registrar);
        }
    }
}
