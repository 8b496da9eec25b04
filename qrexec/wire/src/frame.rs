//! Headers, versions, and the buffer that finds frames in a byte stream.

use std::ops::Range;

use crate::limits::{
    IDENT_FIELD, MAX_COMMAND_FRAME, MAX_DATA_CHUNK, MAX_DATA_CHUNK_V2, MAX_SERVICE_CALL,
    SERVICE_FIELD_V2, TARGET_FIELD, TARGET_FIELD_V2,
};

/// A version of the protocol that both ends of a stream can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Version {
    /// The oldest version that we speak.
    pub const OLDEST: Self = Self(2);
    /// The newest version that we speak; what our HELLO says.
    pub const OURS: Self = Self(4);

    /// The version of a stream whose other end said `peer` in its HELLO: the lower one.
    ///
    /// # Errors
    /// [`Malformed::Version`] when that is older than [`Version::OLDEST`].
    pub fn negotiate(peer: u32) -> Result<Self, Malformed> {
        let version = Self(peer.min(Self::OURS.0));
        if version < Self::OLDEST {
            return Err(Malformed::Version(peer));
        }
        Ok(version)
    }

    /// The number in a HELLO.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Largest body of a data frame.
    pub fn max_data_chunk(self) -> usize {
        if self.0 < 3 {
            MAX_DATA_CHUNK_V2
        } else {
            MAX_DATA_CHUNK
        }
    }
}

/// The number that says what a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// Bytes to the service.
    DataStdin,
    /// Bytes from the service's standard output.
    DataStdout,
    /// Bytes from the service's standard error.
    DataStderr,
    /// How the service ended.
    DataExitCode,
    /// Run a command and connect its streams.
    ExecCmdline,
    /// Run a command without streams.
    JustExec,
    /// A call of this VM was accepted.
    ServiceConnect,
    /// A call of this VM was refused.
    ServiceRefused,
    /// A VM wants to call a service, version 2.
    TriggerService,
    /// A data stream has ended.
    ConnectionTerminated,
    /// A VM wants to call a service, version 3.
    TriggerService3,
    /// A VM wants to call a service, version 4.
    TriggerService4,
    /// The first frame of each direction.
    Hello,
    /// None of these.
    Unknown(u32),
}

impl FrameType {
    const NUMBERS: [(Self, u32); 13] = [
        (Self::DataStdin, 0x190),
        (Self::DataStdout, 0x191),
        (Self::DataStderr, 0x192),
        (Self::DataExitCode, 0x193),
        (Self::ExecCmdline, 0x200),
        (Self::JustExec, 0x201),
        (Self::ServiceConnect, 0x202),
        (Self::ServiceRefused, 0x203),
        (Self::TriggerService, 0x210),
        (Self::ConnectionTerminated, 0x211),
        (Self::TriggerService3, 0x212),
        (Self::TriggerService4, 0x213),
        (Self::Hello, 0x300),
    ];

    /// The type with this number.
    pub fn from_number(number: u32) -> Self {
        Self::NUMBERS
            .into_iter()
            .find_map(|(kind, of)| (of == number).then_some(kind))
            .unwrap_or(Self::Unknown(number))
    }

    /// The number of this type.
    pub fn number(self) -> u32 {
        if let Self::Unknown(number) = self {
            return number;
        }
        Self::NUMBERS
            .into_iter()
            .find_map(|(of, number)| (of == self).then_some(number))
            .unwrap_or_default()
    }

    /// The lengths that a body of this type may have; empty for a type that no version has.
    fn lengths(self, version: Version) -> Range<usize> {
        const PARAMS: usize = 8;
        let exactly = |len: usize| len..len + 1;
        match self {
            Self::DataStdin | Self::DataStdout | Self::DataStderr | Self::DataExitCode => {
                0..version.max_data_chunk() + 1
            }
            Self::ExecCmdline | Self::JustExec => PARAMS + 1..MAX_COMMAND_FRAME + 1,
            Self::ServiceConnect => exactly(PARAMS + IDENT_FIELD),
            Self::ServiceRefused => exactly(IDENT_FIELD),
            Self::TriggerService => exactly(SERVICE_FIELD_V2 + TARGET_FIELD_V2 + IDENT_FIELD),
            Self::ConnectionTerminated => exactly(PARAMS),
            Self::TriggerService3 => {
                let fixed = TARGET_FIELD + IDENT_FIELD;
                fixed + 1..fixed + MAX_SERVICE_CALL + 1
            }
            Self::TriggerService4 => {
                let fixed = 2 * TARGET_FIELD + IDENT_FIELD;
                fixed + 1..fixed + MAX_SERVICE_CALL + 1
            }
            Self::Hello => exactly(4),
            Self::Unknown(_) => 0..0,
        }
    }
}

/// Why bytes are not of this protocol, or why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A type that this direction of this stream does not have in the negotiated version, or has only at another time.
    #[error("frame type {0:#x} is not expected here")]
    Unexpected(u32),
    /// A body shorter or longer than its type allows.
    #[error("frame type {kind:#x} with a body of {len} bytes")]
    Length {
        /// The type's number.
        kind: u32,
        /// The length that the header gave.
        len: u32,
    },
    /// The peer speaks only versions that are too old.
    #[error("protocol version {0} is too old")]
    Version(u32),
    /// A text field without its closing NUL, or with something behind it.
    #[error("a text field is not closed by NULs")]
    Text,
    /// An ident with a character outside `[0-9A-Za-z_. -]`.
    #[error("an ident holds a character that it may not have")]
    Ident,
}

/// What stands before each body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: FrameType,
    /// Length of the body in bytes.
    pub len: u32,
}

impl Header {
    /// Length of a header in bytes.
    pub const LEN: usize = 8;

    /// The header as bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let [k0, k1, k2, k3] = self.kind.number().to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [k0, k1, k2, k3, l0, l1, l2, l3]
    }

    /// Reads a header.
    pub fn decode(bytes: [u8; Self::LEN]) -> Self {
        let [k0, k1, k2, k3, l0, l1, l2, l3] = bytes;
        Self {
            kind: FrameType::from_number(u32::from_le_bytes([k0, k1, k2, k3])),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }
}

/// Appends a frame; on error `out` is as before.
///
/// # Errors
/// [`Malformed::Length`] when the peer would refuse the length.
pub(crate) fn append(
    out: &mut Vec<u8>,
    kind: FrameType,
    version: Version,
    body: &[&[u8]],
) -> Result<(), Malformed> {
    let total: usize = body.iter().map(|part| part.len()).sum();
    let len = u32::try_from(total).unwrap_or(u32::MAX);
    if !kind.lengths(version).contains(&total) {
        return Err(Malformed::Length {
            kind: kind.number(),
            len,
        });
    }
    out.reserve(Header::LEN + total);
    out.extend_from_slice(&Header { kind, len }.encode());
    for part in body {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Bytes that were fed and not yet taken.
///
/// A caller that takes every frame before it feeds the next piece holds at most one frame and one piece.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    taken: usize,
}

impl Buffer {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Takes the next whole frame; `None` when more bytes are needed.
    ///
    /// `expected` says which types may come now. A header that is wrong is refused before its body has come.
    pub(crate) fn take(
        &mut self,
        version: Version,
        expected: impl Fn(FrameType) -> bool,
    ) -> Result<Option<(FrameType, &[u8])>, Malformed> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((header, rest)) = rest.split_first_chunk::<{ Header::LEN }>() else {
            return Ok(None);
        };
        let Header { kind, len } = Header::decode(*header);
        if !expected(kind) {
            return Err(Malformed::Unexpected(kind.number()));
        }
        let body_len = usize::try_from(len).unwrap_or(usize::MAX);
        if !kind.lengths(version).contains(&body_len) {
            return Err(Malformed::Length {
                kind: kind.number(),
                len,
            });
        }
        if rest.len() < body_len {
            return Ok(None);
        }
        let start = self.taken + Header::LEN;
        self.taken = start + body_len;
        Ok(Some((
            kind,
            self.bytes.get(start..self.taken).unwrap_or_default(),
        )))
    }
}

/// Reads the number of a HELLO whose length was checked.
pub(crate) fn hello_number(body: &[u8]) -> Result<u32, Malformed> {
    let bytes = <[u8; 4]>::try_from(body).map_err(|_| Malformed::Length {
        kind: FrameType::Hello.number(),
        len: u32::try_from(body.len()).unwrap_or(u32::MAX),
    })?;
    Ok(u32::from_le_bytes(bytes))
}

/// A text that ends at its first NUL, behind which only NULs may stand.
pub(crate) fn padded(field: &[u8]) -> Result<&[u8], Malformed> {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(Malformed::Text)?;
    let (text, padding) = field.split_at(end);
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Malformed::Text);
    }
    Ok(text)
}
