//! Wire between the supervisor and a vmm, and of the link between a vmm and a service.
//!
//! Three conversations, all on sequenced-packet sockets (one message a packet, descriptors beside it):
//!
//! * **launch**: the supervisor writes one [`Launch`] (JSON) into a memfd and starts `casemate-vmm --launch FD`.
//!   Every descriptor the VM will ever need is named in it by number and inherited.
//! * **control**: the vmm accepts connections on the inherited listening socket, one at a time; the newest
//!   wins, so that a restarted supervisor takes over. [`Action`] down, [`Event`] up, JSON, at most
//!   [`MAX_CONTROL`] bytes.
//! * **link**: a socket between the vmm and one service (broker or compositor). The service offers
//!   streams to the guest by vsock port: [`LinkMessage`], 8 bytes, with one descriptor.
//!
//! Who speaks first: on control the vmm, with [`Event::State`]; on a link the service.
//! This crate does no I/O and allocates nothing larger than [`MAX_LAUNCH`].
#![deny(missing_docs)]

mod control;
mod launch;
mod link;
mod network;
pub mod ring_log;
mod snapshot;

pub use control::{Action, Event, Phase, StopReason};
pub use launch::{
    Assigned, AssignedGroup, CpuModel, Disk, DiskFormat, InvalidLaunch, KernelFormat, Launch,
    LaunchLink, Sound,
};
pub use link::{LinkKind, LinkMessage, MAX_OFFERS, MalformedLink};
pub use network::{InvalidMac, MacAddress, Network, WireFile};
pub use snapshot::{InvalidKey, Restore, SnapshotKey};

/// Longest message on the control socket, in bytes: a hostile vmm cannot make the supervisor allocate more.
pub const MAX_CONTROL: usize = 4096;

/// Longest launch description, in bytes.
pub const MAX_LAUNCH: usize = 64 * 1024;

/// A message that is not of this wire.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Longer than its limit.
    #[error("message of {len} bytes, the limit is {max}")]
    TooLong {
        /// What came.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Not JSON, an unknown variant or an unknown key.
    #[error("message is not of this protocol")]
    Json(#[from] serde_json::Error),
}

/// Encodes a control or launch message.
pub fn encode<T: serde::Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message)
        .expect("types of this crate have string keys and no failing serializer")
}

/// Decodes a message of at most `max` bytes.
///
/// # Errors
/// [`Malformed`] when it is too long or not of the type asked for.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, Malformed> {
    if bytes.len() > max {
        return Err(Malformed::TooLong {
            len: bytes.len(),
            max,
        });
    }
    Ok(serde_json::from_slice(bytes)?)
}
