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
use vmm_sys_util::eventfd::EventFd;

use super::{Interrupt, Memory};

/// Largest queue: bounds the work of one turn and the requests in flight, which a guest could otherwise drive to 32768.
pub const MAX_QUEUE_SIZE: u16 = 256;

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
