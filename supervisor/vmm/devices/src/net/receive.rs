//! Frames from the wire into the guest's buffers.

use super::config::feature;
use super::frame;
use super::offload::{Allowed, HEADER, Offload};
use super::wire::{ROOM, Received, Wire};
use super::{Counters, Loss};
use crate::scatter::Buffers;
use crate::virtio::{ActiveQueue, Memory, QueueError};

/// Smallest buffer when frames may not lie in several: one of the usual size, 1514 bytes, after its header.
const SMALL_BUFFER: usize = HEADER + 1514;

/// One frame on its way to the guest, and room to gather buffers for it.
pub(super) struct Receiver {
    packet: Box<[u8; ROOM]>,
    /// Length of the packet that waits for buffers, header included.
    held: Option<usize>,
    /// Buffers of the first chain stay, because its header is written last.
    first: Buffers,
    more: Buffers,
    taken: Vec<(u16, u32)>,
    allowed: Allowed,
    mergeable: bool,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The wire has nothing more.
    Quiet,
    /// A frame waits for buffers.
    NoBuffers,
    /// Others come first.
    BudgetSpent,
    /// The wire is gone.
    Gone,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            packet: vec![0; ROOM]
                .into_boxed_slice()
                .try_into()
                .unwrap_or_else(|_| Box::new([0; ROOM])),
            held: None,
            first: Buffers::default(),
            more: Buffers::default(),
            taken: Vec::new(),
            allowed: Allowed::to_guest(0),
            mergeable: false,
        }
    }

    /// Begins anew with a driver that has negotiated `features`.
    pub(super) fn restart(&mut self, features: u64) {
        self.held = None;
        self.allowed = Allowed::to_guest(features);
        self.mergeable = features & feature::MRG_RXBUF != 0;
    }

    /// Whether a frame waits for the guest; then nothing more is read.
    pub(super) fn is_full(&self) -> bool {
        self.held.is_some()
    }

    /// Moves up to `budget` frames.
    pub(super) fn turn(
        &mut self,
        wire: &mut Wire,
        queue: &mut ActiveQueue,
        memory: &Memory,
        counters: &Counters,
        budget: usize,
    ) -> Result<End, QueueError> {
        for _ in 0..budget {
            let len = match self.held {
                Some(len) => len,
                None => match wire.receive(&mut self.packet) {
                    Received::Packet(len) => match self.admit(len) {
                        Ok(()) => len,
                        Err(why) => {
                            counters.count_lost(why);
                            continue;
                        }
                    },
                    Received::Nothing => return Ok(End::Quiet),
                    Received::Gone => return Ok(End::Gone),
                },
            };
            match self.deliver(len, queue, memory)? {
                Delivery::Done => counters.count_received(),
                Delivery::Lost(why) => counters.count_lost(why),
                Delivery::NoBuffers => {
                    self.held = Some(len);
                    return Ok(End::NoBuffers);
                }
            }
            self.held = None;
        }
        Ok(End::BudgetSpent)
    }

    /// Checks a packet of `len` bytes and makes it one for this guest.
    fn admit(&mut self, len: usize) -> Result<(), Loss> {
        let packet = self.packet.get_mut(..len).ok_or(Loss::Incoming)?;
        let (header, frame) = packet
            .split_first_chunk_mut::<HEADER>()
            .ok_or(Loss::Incoming)?;
        frame::length(frame.len()).map_err(|_| Loss::Incoming)?;
        let kind = frame::ethertype(frame, None).map_err(|_| Loss::Incoming)?;
        let mut offload = Offload::decode(header, frame, frame.len(), kind, Allowed::ALL)
            .map_err(|_| Loss::Incoming)?;
        offload.adapt(frame, self.allowed)?;
        *header = offload.encode();
        Ok(())
    }

    /// Puts the packet into as many chains as it needs, which the driver sees all at once.
    fn deliver(
        &mut self,
        len: usize,
        queue: &mut ActiveQueue,
        memory: &Memory,
    ) -> Result<Delivery, QueueError> {
        self.taken.clear();
        let mut rest = self.packet.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            if self.taken.len() >= queue.budget() {
                // The driver has no more to give: this frame will never fit.
                return self.give_up(queue, memory, Loss::Undeliverable);
            }
            let Some(chain) = queue.pop(memory)? else {
                if queue.rearm(memory)? {
                    continue;
                }
                for (head, _) in self.taken.iter().rev() {
                    queue.put_back(*head);
                }
                return Ok(Delivery::NoBuffers);
            };
            let head = chain.head_index();
            let buffers = if self.taken.is_empty() {
                &mut self.first
            } else {
                &mut self.more
            };
            let smallest = if self.mergeable { HEADER } else { SMALL_BUFFER };
            let usable = buffers.load(chain, memory).is_ok()
                && buffers.readable().is_empty()
                && buffers.writable().len() >= smallest;
            if !usable {
                self.taken.push((head, 0));
                return self.give_up(queue, memory, Loss::BadBuffer);
            }
            if !self.mergeable && buffers.writable().len() < rest.len() {
                queue.put_back(head);
                return Ok(Delivery::Lost(Loss::Undeliverable));
            }
            let written = buffers.writable().write(memory, rest);
            rest = rest.get(written..).unwrap_or_default();
            self.taken
                .push((head, u32::try_from(written).unwrap_or(u32::MAX)));
        }
        let count = u16::try_from(self.taken.len()).unwrap_or(u16::MAX);
        if count > 1 {
            let number = self.first.writable().after(HEADER.saturating_sub(2));
            number.write(memory, &count.to_le_bytes());
        }
        queue.complete_together(memory, &self.taken)?;
        if count > 1 {
            queue.interrupt.signal();
        }
        Ok(Delivery::Done)
    }

    /// Gives everything that was taken back as empty and loses the frame.
    fn give_up(
        &mut self,
        queue: &mut ActiveQueue,
        memory: &Memory,
        why: Loss,
    ) -> Result<Delivery, QueueError> {
        for (head, _) in &self.taken {
            queue.complete(memory, *head, 0)?;
        }
        Ok(Delivery::Lost(why))
    }
}

enum Delivery {
    Done,
    Lost(Loss),
    NoBuffers,
}
