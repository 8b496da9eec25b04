//! virtio 1.2: what a device is ([`VirtioDevice`]), its queues, and the virtio-pci transport around it.
//!
//! Modern only: no legacy layout, no INTx. The transport ([`VirtioPci`]) owns negotiation, checks queue addresses and
//! resolves interrupt vectors; a device sees only validated queues, from [`VirtioDevice::activate`] until reset.

mod device;
mod queue;
mod transport;

pub use device::{ActivateError, Activation, Interrupt, Memory, VirtioDevice};
pub use queue::{ActiveQueue, Chain, MAX_QUEUE_SIZE, QueueError};
pub use transport::{HostServices, MAX_QUEUES, TransportError, VirtioPci};
