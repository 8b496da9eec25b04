//! Frames: a header and a body, and the decoder that finds them in a byte stream.

use std::marker::PhantomData;

use crate::bytes::{Reader, Writer};

/// Why bytes are not of this wire, or why a message cannot be sent. The sender of such bytes is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A header whose reserved field is not zero.
    #[error("reserved header field is not zero")]
    Reserved,
    /// A message number that this direction does not have.
    #[error("unknown message {0}")]
    Unknown(u16),
    /// A body longer than this direction allows.
    #[error("body of {0} bytes is too long")]
    TooLong(u32),
    /// A body that is shorter or longer than its fields.
    #[error("body does not have the length of its fields")]
    Length,
    /// A field outside its bounds.
    #[error("{0} out of bounds")]
    Value(&'static str),
}

/// What stands before each body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message number.
    pub kind: u16,
    /// Length of the body in bytes.
    pub len: u32,
}

impl Header {
    /// Length of a header in bytes.
    pub const LEN: usize = 8;

    /// The header as bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let [k0, k1] = self.kind.to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [k0, k1, 0, 0, l0, l1, l2, l3]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Malformed::Reserved`].
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, Malformed> {
        let [k0, k1, z0, z1, l0, l1, l2, l3] = bytes;
        if [z0, z1] != [0, 0] {
            return Err(Malformed::Reserved);
        }
        Ok(Self {
            kind: u16::from_le_bytes([k0, k1]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
        })
    }
}

mod sealed {
    use super::{Malformed, Reader, Writer};

    /// What each direction implements; not for others.
    pub trait Body: Sized {
        /// Longest body.
        const MAX: usize;
        /// Message number.
        fn kind(&self) -> u16;
        /// Bounds of every field; the same for sender and receiver.
        fn check(&self) -> Result<(), Malformed>;
        /// Writes the fields.
        fn write(&self, writer: &mut Writer<'_>) -> Result<(), Malformed>;
        /// Reads the fields of message `kind`.
        fn read(kind: u16, reader: &mut Reader<'_>) -> Result<Self, Malformed>;
    }
}
pub(crate) use sealed::Body;

/// A message of one direction: [`crate::ToHost`] or [`crate::ToGuest`].
pub trait Message: Body {
    /// Longest body of this direction in bytes.
    const MAX_BODY: usize = Self::MAX;

    /// Appends the message as a frame to `out`; on error `out` is as before.
    ///
    /// # Errors
    /// [`Malformed`] when a field is outside its bounds: the peer would refuse it.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        self.check()?;
        let start = out.len();
        let result = self.write_frame(start, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Reads the body of message `kind`.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are anything but one message with every field in its bounds.
    fn decode(kind: u16, body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > Self::MAX {
            return Err(Malformed::TooLong(
                u32::try_from(body.len()).unwrap_or(u32::MAX),
            ));
        }
        let mut reader = Reader::new(body);
        let message = Self::read(kind, &mut reader)?;
        reader.end()?;
        message.check()?;
        Ok(message)
    }

    #[doc(hidden)]
    fn write_frame(&self, start: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&[0; Header::LEN]);
        self.write(&mut Writer(out))?;
        let body = out.len().saturating_sub(start + Header::LEN);
        let len = u32::try_from(body).map_err(|_| Malformed::Length)?;
        if body > Self::MAX {
            return Err(Malformed::TooLong(len));
        }
        let header = Header {
            kind: self.kind(),
            len,
        };
        if let Some(place) = out.get_mut(start..start + Header::LEN) {
            place.copy_from_slice(&header.encode());
        }
        Ok(())
    }
}

impl<B: Body> Message for B {}

/// Finds messages in a byte stream that arrives in pieces.
///
/// Holds what was fed and not yet taken; a caller that takes every message before it feeds the next piece holds
/// at most one frame and one piece. After an error the stream has no meaning any more: drop it.
#[derive(Debug)]
pub struct Decoder<M> {
    buffer: Vec<u8>,
    taken: usize,
    message: PhantomData<M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            taken: 0,
            message: PhantomData,
        }
    }
}

impl<M: Message> Decoder<M> {
    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`Malformed`], also as soon as a header alone is wrong: a lying length is not waited for.
    pub fn take(&mut self) -> Result<Option<M>, Malformed> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((header, rest)) = rest.split_first_chunk::<{ Header::LEN }>() else {
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let len = usize::try_from(header.len).map_err(|_| Malformed::TooLong(header.len))?;
        if len > M::MAX {
            return Err(Malformed::TooLong(header.len));
        }
        let Some(body) = rest.get(..len) else {
            return Ok(None);
        };
        let message = M::decode(header.kind, body)?;
        self.taken += Header::LEN + len;
        Ok(Some(message))
    }
}
