//! A queue in use, and the only ways a device needs to touch it.
//!
//! One turn of a device is: [`ActiveQueue::drain_kick`], then [`ActiveQueue::pop`] and [`ActiveQueue::complete`]
//! until empty **or the turn's budget is used up**, then [`ActiveQueue::notify`]. A driver that adds chains as fast
//! as they are taken must not keep the loop's thread: after [`ActiveQueue::budget`] chains a device calls
//! [`ActiveQueue::kick_again`] and returns. On any [`QueueError`] it calls
//! [`super::Interrupt::needs_reset`] and forgets its queues, as if reset.

use std::fmt;
use std::sync::Arc;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{Interrupt, Memory};
use crate::state::QueuePosition;

/// Largest queue: bounds the work of one turn and the requests in flight, which a guest could otherwise drive to 32768.
pub const MAX_QUEUE_SIZE: u16 = 256;

/// Layout of the available ring (virtio 1.2, 2.7.6): where its entries begin, and the length of one; after them comes how far
/// the driver has seen the used ring, when event indexes are used.
const AVAILABLE_ENTRIES: u64 = 4;
const AVAILABLE_ENTRY: u64 = 2;

/// Layout of the used ring (virtio 1.2, 2.7.8): where its entries begin, and the length of one.
const USED_ENTRIES: u64 = 4;
const USED_ENTRY: u64 = 8;

/// One descriptor chain. Iterating ends early and silently where a descriptor is malformed; an indirect table may
/// hold up to 65535 entries, so a device bounds how many it takes.
pub type Chain = DescriptorChain<Memory>;

/// The rings are broken; only a reset helps.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// An index or address in them is out of bounds.
    #[error("virtqueue is broken: {0}")]
    Rings(#[from] virtio_queue::Error),
    /// The driver made a chain available that the device still holds: two requests would share one head, and the
    /// answer to one would free the buffers of the other.
    #[error("the driver queued head {0} while it was in flight")]
    InFlightTwice(u16),
    /// A chain was given back that is not held. A bug of the device.
    #[error("head {0} was given back without being in flight")]
    NotInFlight(u16),
}

/// The heads that a device holds: popped, and neither completed nor put back. A bit each.
#[derive(Debug, Default)]
struct InFlight([u64; InFlight::WORDS]);

impl InFlight {
    const WORDS: usize = MAX_QUEUE_SIZE as usize / 64;

    /// Changes the bit of `head` to `held`; false when it was so already, or there is no such head.
    fn set(&mut self, head: u16, held: bool) -> bool {
        let Some(word) = self.0.get_mut(usize::from(head / 64)) else {
            return false;
        };
        let bit = 1_u64.wrapping_shl(u32::from(head % 64));
        let was = *word & bit != 0;
        *word = if held { *word | bit } else { *word & !bit };
        was != held
    }
}

/// A queue between activation and reset.
pub struct ActiveQueue {
    /// The rings.
    pub queue: Queue,
    /// Written by the driver's notification (an ioeventfd), non-blocking.
    pub kick: EventFd,
    /// Tells the driver.
    pub interrupt: Arc<dyn Interrupt>,
    in_flight: InFlight,
    /// Chains were completed of which the driver was not told.
    untold: bool,
}

impl fmt::Debug for ActiveQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ActiveQueue")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl ActiveQueue {
    /// A queue of which no chain is in flight.
    pub fn new(queue: Queue, kick: EventFd, interrupt: Arc<dyn Interrupt>) -> Self {
        Self {
            queue,
            kick,
            interrupt,
            in_flight: InFlight::default(),
            untold: false,
        }
    }

    /// How far it is.
    pub fn position(&self) -> QueuePosition {
        QueuePosition {
            next_available: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }

    /// Goes on from where another activation was.
    pub(super) fn go_to(&mut self, position: QueuePosition) {
        self.queue.set_next_avail(position.next_available);
        self.queue.set_next_used(position.next_used);
    }

    /// Takes the kick counter back to zero. A kick that was drained by someone else is not an error.
    pub fn drain_kick(&self) {
        let _ = self.kick.read();
    }

    /// Makes the kick descriptor ready again, to continue in a later turn of the loop.
    pub fn kick_again(&self) {
        // Fails only when the counter is full, and then it is ready.
        let _ = self.kick.write(1);
    }

    /// Most chains that one turn may take.
    pub fn budget(&self) -> usize {
        usize::from(self.queue.size())
    }

    /// Takes the next chain, if there is one. It is in flight until it is completed or put back.
    ///
    /// # Errors
    /// [`QueueError`] when the available ring is out of bounds, runs ahead by more than the queue's size, or names a
    /// chain that is in flight.
    pub fn pop(&mut self, memory: &Memory) -> Result<Option<Chain>, QueueError> {
        let Some(chain) = self.queue.iter(Memory::clone(memory))?.next() else {
            return Ok(None);
        };
        let head = chain.head_index();
        // Such a chain has no descriptors and could never be completed.
        if head >= self.queue.size() {
            return Err(virtio_queue::Error::InvalidDescriptorIndex.into());
        }
        if !self.in_flight.set(head, true) {
            return Err(QueueError::InFlightTwice(head));
        }
        Ok(Some(chain))
    }

    /// Puts the chain with this head, which was popped last, back to be popped again. Only before another pop or
    /// completion.
    pub fn put_back(&mut self, head: u16) {
        self.in_flight.set(head, false);
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the driver with `written` bytes in it. Tells nobody: see [`ActiveQueue::notify`].
    ///
    /// # Errors
    /// [`QueueError`] when the used ring cannot be written, or the chain is not in flight.
    pub fn complete(&mut self, memory: &Memory, head: u16, written: u32) -> Result<(), QueueError> {
        self.land(head)?;
        self.untold = true;
        Ok(self.queue.add_used(memory.as_ref(), head, written)?)
    }

    fn land(&mut self, head: u16) -> Result<(), QueueError> {
        if self.in_flight.set(head, false) {
            Ok(())
        } else {
            Err(QueueError::NotInFlight(head))
        }
    }

    /// Gives several chains back at once, in this order: the driver sees all of them or none. Signal it afterwards with
    /// [`ActiveQueue::notify`] **and** [`Interrupt::signal`] when there were several: event indexes count the last only.
    ///
    /// # Errors
    /// [`QueueError`] when the used ring cannot be written, or a chain is not in flight.
    pub fn complete_together(
        &mut self,
        memory: &Memory,
        chains: &[(u16, u32)],
    ) -> Result<(), QueueError> {
        let Some(((last, written), before)) = chains.split_last() else {
            return Ok(());
        };
        let size = self.queue.size();
        let mut place = self.queue.next_used();
        for (head, written) in before {
            self.land(*head)?;
            let index = place.checked_rem(size).unwrap_or(0);
            let entry = (USED_ENTRIES)
                .saturating_add(u64::from(index).saturating_mul(USED_ENTRY))
                .checked_add(self.queue.used_ring())
                .ok_or(virtio_queue::Error::AddressOverflow)?;
            let [h0, h1] = head.to_le_bytes();
            let [w0, w1, w2, w3] = written.to_le_bytes();
            memory
                .write_slice(&[h0, h1, 0, 0, w0, w1, w2, w3], GuestAddress(entry))
                .map_err(virtio_queue::Error::GuestMemory)?;
            place = place.wrapping_add(1);
        }
        // The ring's index moves once, after everything was written.
        self.queue.set_next_used(place);
        self.complete(memory, *last, *written)
    }

    /// Signals the driver if there are chains completed since the last call, of which it wants to hear.
    ///
    /// # Errors
    /// [`QueueError`] when the available ring cannot be read.
    pub fn notify(&mut self, memory: &Memory) -> Result<(), QueueError> {
        if std::mem::take(&mut self.untold) && self.queue.needs_notification(memory.as_ref())? {
            self.interrupt.signal();
        }
        Ok(())
    }

    /// Whether the driver has seen every chain that was given back, as far as it says so, which is only with event indexes.
    /// A hint: a driver may say what it likes.
    ///
    /// # Errors
    /// [`QueueError`] when the available ring cannot be read.
    pub fn is_seen(&self, memory: &Memory) -> Result<bool, QueueError> {
        if !self.queue.state().event_idx_enabled {
            return Ok(true);
        }
        let entries = u64::from(self.queue.size()).saturating_mul(AVAILABLE_ENTRY);
        let place = (AVAILABLE_ENTRIES)
            .saturating_add(entries)
            .checked_add(self.queue.avail_ring())
            .ok_or(virtio_queue::Error::AddressOverflow)?;
        let mut seen = [0; 2];
        memory
            .read_slice(&mut seen, GuestAddress(place))
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u16::from_le_bytes(seen) == self.queue.next_used())
    }

    /// With event indexes: asks the driver to kick at its next chain; true when one came meanwhile, to be popped now.
    ///
    /// # Errors
    /// [`QueueError`] when the rings cannot be reached.
    pub fn rearm(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(memory.as_ref())?)
    }
}
