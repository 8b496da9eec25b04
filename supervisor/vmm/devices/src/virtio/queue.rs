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

/// Layout of the used ring (virtio 1.2, 2.7.8): where its entries begin, and the length of one.
const USED_ENTRIES: u64 = 4;
const USED_ENTRY: u64 = 8;

/// One descriptor chain. Iterating ends early and silently where a descriptor is malformed; an indirect table may
/// hold up to 65535 entries, so a device bounds how many it takes.
pub type Chain = DescriptorChain<Memory>;

/// The rings are broken; only a reset helps.
#[derive(Debug, thiserror::Error)]
#[error("virtqueue is broken: {0}")]
pub struct QueueError(pub virtio_queue::Error);

/// A queue between activation and reset.
pub struct ActiveQueue {
    /// The rings.
    pub queue: Queue,
    /// Written by the driver's notification (an ioeventfd), non-blocking.
    pub kick: EventFd,
    /// Tells the driver.
    pub interrupt: Arc<dyn Interrupt>,
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

    /// Takes the next chain, if there is one.
    ///
    /// # Errors
    /// [`QueueError`] when the available ring is out of bounds or runs ahead by more than the queue's size.
    pub fn pop(&mut self, memory: &Memory) -> Result<Option<Chain>, QueueError> {
        let mut available = self.queue.iter(Memory::clone(memory)).map_err(QueueError)?;
        let chain = available.next();
        match chain {
            // Such a chain has no descriptors and could never be completed.
            Some(chain) if chain.head_index() >= self.queue.size() => {
                Err(QueueError(virtio_queue::Error::InvalidDescriptorIndex))
            }
            chain => Ok(chain),
        }
    }

    /// Puts the chain that was popped last back, to be popped again. Only before another pop or completion.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the driver with `written` bytes in it. Tells nobody: see [`ActiveQueue::notify`].
    ///
    /// # Errors
    /// [`QueueError`] when the used ring cannot be written.
    pub fn complete(&mut self, memory: &Memory, head: u16, written: u32) -> Result<(), QueueError> {
        self.queue
            .add_used(memory.as_ref(), head, written)
            .map_err(QueueError)
    }

    /// Gives several chains back at once, in this order: the driver sees all of them or none. Signal it afterwards with
    /// [`ActiveQueue::notify`] **and** [`Interrupt::signal`] when there were several: event indexes count the last only.
    ///
    /// # Errors
    /// [`QueueError`] when the used ring cannot be written.
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
            let index = place.checked_rem(size).unwrap_or(0);
            let entry = (USED_ENTRIES)
                .saturating_add(u64::from(index).saturating_mul(USED_ENTRY))
                .checked_add(self.queue.used_ring())
                .ok_or(QueueError(virtio_queue::Error::AddressOverflow))?;
            let [h0, h1] = head.to_le_bytes();
            let [w0, w1, w2, w3] = written.to_le_bytes();
            memory
                .write_slice(&[h0, h1, 0, 0, w0, w1, w2, w3], GuestAddress(entry))
                .map_err(|error| QueueError(virtio_queue::Error::GuestMemory(error)))?;
            place = place.wrapping_add(1);
        }
        // The ring's index moves once, after everything was written.
        self.queue.set_next_used(place);
        self.complete(memory, *last, *written)
    }

    /// Signals the driver if it wants to hear of the chains completed since the last call.
    ///
    /// # Errors
    /// [`QueueError`] when the available ring cannot be read.
    pub fn notify(&mut self, memory: &Memory) -> Result<(), QueueError> {
        if self
            .queue
            .needs_notification(memory.as_ref())
            .map_err(QueueError)?
        {
            self.interrupt.signal();
        }
        Ok(())
    }

    /// With event indexes: asks the driver to kick at its next chain; true when one came meanwhile, to be popped now.
    ///
    /// # Errors
    /// [`QueueError`] when the rings cannot be reached.
    pub fn rearm(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        self.queue
            .enable_notification(memory.as_ref())
            .map_err(QueueError)
    }
}
