//! The 44 bytes in front of every vsock packet (virtio 1.2, 5.10.6), and the addresses in them.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The host's CID, the only one a guest can reach.
pub(super) const HOST_CID: u64 = 2;

/// Most payload of one packet in either direction: bounds the time of one turn, and with it everyone else's wait.
pub(super) const MAX_PAYLOAD: usize = 64 << 10;

/// Length of a header in bytes.
pub(super) const HEADER: usize = size_of::<RawHeader>();

/// The type field of a stream; sequenced packets are not offered.
const STREAM: u16 = 1;

/// A guest's context id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestCid(u32);

/// A number that is no guest's context id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no vsock context id of a guest: 0 to 2 and 4294967295 have other meanings")]
pub struct InvalidCid(u32);

impl GuestCid {
    /// Checks a context id.
    ///
    /// # Errors
    /// [`InvalidCid`] for the reserved numbers.
    pub fn new(cid: u32) -> Result<Self, InvalidCid> {
        match cid {
            0..=2 | u32::MAX => Err(InvalidCid(cid)),
            _ => Ok(Self(cid)),
        }
    }

    pub(super) fn get(self) -> u64 {
        u64::from(self.0)
    }
}

/// What a packet means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
    Unknown(u16),
}

impl From<u16> for Operation {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            other => Self::Unknown(other),
        }
    }
}

impl From<Operation> for u16 {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Request => 1,
            Operation::Response => 2,
            Operation::Reset => 3,
            Operation::Shutdown => 4,
            Operation::Data => 5,
            Operation::CreditUpdate => 6,
            Operation::CreditRequest => 7,
            Operation::Unknown(other) => other,
        }
    }
}

/// What the sender of a [`Operation::Shutdown`] will not do any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shut {
    pub(super) receiving: bool,
    pub(super) sending: bool,
}

impl Shut {
    fn from_flags(flags: u32) -> Self {
        Self {
            receiving: flags & 1 != 0,
            sending: flags & 2 != 0,
        }
    }

    fn flags(self) -> u32 {
        u32::from(self.receiving) | (u32::from(self.sending) << 1)
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self {
            receiving: self.receiving || other.receiving,
            sending: self.sending || other.sending,
        }
    }
}

/// The two ports that name a connection; the CIDs are always the guest's and the host's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

impl fmt::Debug for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}->{}", self.guest, self.host)
    }
}

/// Room at the sender of a header: the size of its buffer, and how much it has taken out of it so far, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) size: u32,
    pub(super) forwarded: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    source_cid: U64,
    destination_cid: U64,
    source_port: U32,
    destination_port: U32,
    len: U32,
    kind: U16,
    operation: U16,
    flags: U32,
    window: U32,
    forwarded: U32,
}

/// A header from the guest, as it came: nothing in it was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct FromGuest {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) ports: Ports,
    pub(super) len: u32,
    pub(super) stream: bool,
    pub(super) operation: Operation,
    pub(super) shut: Shut,
    pub(super) window: Window,
}

impl FromGuest {
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let raw = RawHeader::read_from_bytes(bytes).ok()?;
        Some(Self {
            source_cid: raw.source_cid.get(),
            destination_cid: raw.destination_cid.get(),
            ports: Ports {
                guest: raw.source_port.get(),
                host: raw.destination_port.get(),
            },
            len: raw.len.get(),
            stream: raw.kind.get() == STREAM,
            operation: raw.operation.get().into(),
            shut: Shut::from_flags(raw.flags.get()),
            window: Window {
                size: raw.window.get(),
                forwarded: raw.forwarded.get(),
            },
        })
    }
}

/// A header to the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToGuest {
    pub(super) ports: Ports,
    pub(super) operation: Operation,
    pub(super) len: u32,
    pub(super) shut: Shut,
    pub(super) window: Window,
}

impl ToGuest {
    /// A refusal of whatever came on these ports.
    pub(super) fn reset(ports: Ports) -> Self {
        Self {
            ports,
            operation: Operation::Reset,
            len: 0,
            shut: Shut::default(),
            window: Window::default(),
        }
    }

    pub(super) fn encode(&self, guest: GuestCid) -> [u8; HEADER] {
        let raw = RawHeader {
            source_cid: HOST_CID.into(),
            destination_cid: guest.get().into(),
            source_port: self.ports.host.into(),
            destination_port: self.ports.guest.into(),
            len: self.len.into(),
            kind: STREAM.into(),
            operation: u16::from(self.operation).into(),
            flags: self.shut.flags().into(),
            window: self.window.size.into(),
            forwarded: self.window.forwarded.into(),
        };
        zerocopy::transmute!(raw)
    }
}
