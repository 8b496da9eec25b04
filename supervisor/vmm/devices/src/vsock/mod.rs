//! virtio-vsock in user space: the guest's only way out, one stream at a time.
//!
//! A guest connects to CID 2 and a port. If a service has offered a stream under that port over its link, the two are
//! joined and the offer is used up; if not, the guest is refused. Nothing connects into the guest, and
//! nothing here listens or connects on the host.
//!
//! ```text
//!  guest tx queue -> packet -> Muxer -> Connection -> stream socket of a service
//!  guest rx queue <- packet <- Muxer <- Connection <-
//!                                ^ takes offers from Links, which read the services' link sockets
//! ```
//!
//! [`Vsock`] is the device and owns the queues. [`VsockHandle`] is what the control thread holds: it attaches links.
//! All memory that a guest can make us use is bounded: see the constants of `credit` and `muxer`.

mod backlog;
mod connection;
mod credit;
mod device;
mod links;
mod muxer;
mod packet;
#[cfg(test)]
mod tests;

pub use device::{Vsock, VsockHandle};
pub use packet::{GuestCid, InvalidCid};
