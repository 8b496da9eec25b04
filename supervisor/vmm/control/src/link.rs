//! The link between a vmm and one service: streams offered to the guest by vsock port.
//!
//! A guest only ever connects outwards, to CID 2. A service that wants to be reached offers a stream under a port
//! number; when the guest connects to that port, the vmm joins the two and the offer is used up. So the broker
//! makes a socket pair, offers one end to each of two VMs, and is out of the way.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Most offers that one link holds; a service that offers more is cut off.
pub const MAX_OFFERS: usize = 512;

/// Which service is at the other end; decides which ports it may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// The qrexec broker: port 512 is the control stream, 513 to 768 are data streams (`specs` of qrexec, 1.3).
    Rpc,
    /// The compositor: the window stream.
    Windows,
}

impl LinkKind {
    /// The port of the qrexec control stream.
    pub const RPC_CONTROL: u32 = 512;
    /// The port of the window stream.
    pub const WINDOWS: u32 = 769;

    /// The ports that this service may offer.
    pub fn ports(self) -> RangeInclusive<u32> {
        match self {
            Self::Rpc => 512..=768,
            Self::Windows => 769..=769,
        }
    }
}

/// One message of a service to the vmm: 8 bytes, little endian, `op` then `port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMessage {
    /// Comes with one stream socket: the next connection of the guest to `port` is joined with it.
    /// An offer for a port that has one replaces it.
    Offer {
        /// vsock port.
        port: u32,
    },
    /// Takes an offer back; the guest's connection to `port` is refused again.
    Withdraw {
        /// vsock port.
        port: u32,
    },
    /// Ends what an offer has become: the guest's connections to `port` are reset at once, whatever is on its way in
    /// them; an unused offer is taken back.
    Cut {
        /// vsock port.
        port: u32,
    },
}

/// A link message that is not of this wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedLink {
    /// Not 8 bytes.
    #[error("link message of {0} bytes instead of 8")]
    Length(usize),
    /// An unknown operation.
    #[error("unknown link operation {0}")]
    Operation(u32),
}

impl LinkMessage {
    /// Length of every message.
    pub const LEN: usize = 8;

    /// The message as bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let (op, port) = match self {
            Self::Offer { port } => (1u32, port),
            Self::Withdraw { port } => (2u32, port),
            Self::Cut { port } => (3u32, port),
        };
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&op.to_le_bytes());
        bytes[4..].copy_from_slice(&port.to_le_bytes());
        bytes
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`MalformedLink`] when it has another length or operation.
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedLink> {
        let Ok(&[o0, o1, o2, o3, p0, p1, p2, p3]) = <&[u8; Self::LEN]>::try_from(bytes) else {
            return Err(MalformedLink::Length(bytes.len()));
        };
        let port = u32::from_le_bytes([p0, p1, p2, p3]);
        match u32::from_le_bytes([o0, o1, o2, o3]) {
            1 => Ok(Self::Offer { port }),
            2 => Ok(Self::Withdraw { port }),
            3 => Ok(Self::Cut { port }),
            op => Err(MalformedLink::Operation(op)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_message_agree() {
        for message in [
            LinkMessage::Offer { port: 513 },
            LinkMessage::Withdraw { port: u32::MAX },
            LinkMessage::Cut { port: 600 },
        ] {
            assert_eq!(LinkMessage::decode(&message.encode()), Ok(message));
        }
        assert_eq!(
            LinkMessage::decode(&[1, 0, 0]),
            Err(MalformedLink::Length(3))
        );
        assert_eq!(
            LinkMessage::decode(&[9, 0, 0, 0, 0, 0, 0, 0]),
            Err(MalformedLink::Operation(9))
        );
    }

    #[test]
    fn services_cannot_offer_each_others_ports() {
        assert!(!LinkKind::Windows.ports().contains(&LinkKind::RPC_CONTROL));
        assert!(!LinkKind::Rpc.ports().contains(&LinkKind::WINDOWS));
    }
}
