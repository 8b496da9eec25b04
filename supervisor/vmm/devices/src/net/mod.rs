//! virtio-net (virtio 1.2, 5.1): one pair of queues over one wire.
//!
//! ```text
//!  guest tx queue -> header and first bytes copied, checked -> Wire -> the rest straight from guest memory
//!  guest rx queue <- copied into the guest's buffers <- checked, checksum completed <- Wire
//! ```
//!
//! [`Net`] is the device, [`Wire`] the other end: a cable to another VM, the stream of a user-mode network, or a tap
//! device. The guest may send from its own address only and without a VLAN tag. What is not sent or not
//! delivered is counted by reason in [`Counters`]. Frames of the other end are as little trusted as the guest's.

mod config;
mod counters;
mod device;
mod frame;
mod offload;
mod receive;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

pub use counters::{Counters, Loss};
pub use device::Net;
pub use frame::{MAX_FRAME, MIN_FRAME};
pub use wire::Wire;
