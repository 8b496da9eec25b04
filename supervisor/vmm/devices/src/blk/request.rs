//! One descriptor chain into one request that cannot be out of bounds (virtio 1.2, 5.2.6).
//!
//! A chain is read as two runs of bytes, however the driver cut them: what it wrote is a 16-byte header and
//! perhaps data; what it may read back is perhaps data and, as the very last byte, the status.

use vm_memory::GuestMemoryMmap;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::config::{Access, Serial};
use super::disk::SECTOR;
use crate::scatter::{Buffers, View};

/// Most data of one request: keeps a guest from holding the disk's thread, and its own reset, for long.
pub const MAX_DATA: usize = 16 << 20;

/// Most buffers that the data of one request lies in: bounds one system call. Told to the driver as `seg_max`.
pub const MAX_DATA_SEGMENTS: usize = 128;

/// Longest single buffer that the driver is told to use (`size_max`), so that a request within both limits
/// is within [`MAX_DATA`] too.
pub const SEGMENT_BYTES: usize = MAX_DATA / MAX_DATA_SEGMENTS;

/// Most ranges of one discard or write-zeroes: each costs a system call, or a write of its whole length.
pub const MAX_RANGES: usize = 32;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Flag of a range: its space may be given back.
const UNMAP: u32 = 1;

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    operation: U32,
    _reserved: U32,
    sector: U64,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawRange {
    sector: U64,
    sectors: U32,
    flags: U32,
}

const HEADER: usize = size_of::<RawHeader>();
const RANGE: usize = size_of::<RawRange>();

/// Why a request is not carried out; the value is the status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// Malformed, out of bounds, or not allowed.
    IoError = 1,
    /// An operation or flag that this device does not have.
    Unsupported = 2,
}

/// Part of a disk, in bytes, inside its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Its space may be given back.
    pub unmap: bool,
}

/// The ranges of a discard or write-zeroes; at least one, at most [`MAX_RANGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    items: [Range; MAX_RANGES],
    count: usize,
}

impl Ranges {
    /// The ranges, in the driver's order.
    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.items.iter().take(self.count)
    }
}

/// What a driver asks, checked against the disk and its limits.
#[derive(Debug)]
pub enum Request<'a> {
    /// Fill `into` from `offset`.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Whole sectors, ending on the disk.
        into: View<'a>,
    },
    /// Write `from` at `offset`.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Whole sectors, ending on the disk.
        from: View<'a>,
    },
    /// Make everything written durable.
    Flush,
    /// Tell the serial.
    Identify {
        /// At least [`Serial::LEN`] bytes.
        into: View<'a>,
    },
    /// The ranges are of no more use.
    Discard(Ranges),
    /// Make the ranges zeroes.
    WriteZeroes(Ranges),
}

/// Where the status byte goes: the last writable byte of a chain. A chain without one cannot be answered.
pub(super) fn status(buffers: &Buffers) -> Option<View<'_>> {
    let writable = buffers.writable();
    Some(writable.after(writable.len().checked_sub(1)?))
}

impl<'a> Request<'a> {
    /// Parses a loaded chain against a disk of `size` bytes.
    ///
    /// # Errors
    /// The [`Refusal`] to put into the status byte.
    pub fn parse(
        buffers: &'a Buffers,
        memory: &GuestMemoryMmap,
        size: u64,
        access: Access,
    ) -> Result<Self, Refusal> {
        let bytes: [u8; HEADER] = buffers
            .readable()
            .read_array(memory)
            .ok_or(Refusal::IoError)?;
        let header = RawHeader::read_from_bytes(&bytes).map_err(|_| Refusal::IoError)?;
        let from = buffers.readable().after(HEADER);
        let writable = buffers.writable();
        let (into, _status) = writable.split_at(writable.len().saturating_sub(1));
        match header.operation.get() {
            IN => Ok(Self::Read {
                offset: sectors(header.sector.get(), into, size).ok_or(Refusal::IoError)?,
                into: only(into, from)?,
            }),
            OUT => {
                writable_disk(access)?;
                Ok(Self::Write {
                    offset: sectors(header.sector.get(), from, size).ok_or(Refusal::IoError)?,
                    from: only(from, into)?,
                })
            }
            FLUSH if from.is_empty() && into.is_empty() => Ok(Self::Flush),
            GET_ID if from.is_empty() && into.len() >= Serial::LEN => Ok(Self::Identify { into }),
            FLUSH | GET_ID => Err(Refusal::IoError),
            DISCARD => {
                writable_disk(access)?;
                ranges(only(from, into)?, memory, size, 0).map(Self::Discard)
            }
            WRITE_ZEROES => {
                writable_disk(access)?;
                ranges(only(from, into)?, memory, size, UNMAP).map(Self::WriteZeroes)
            }
            _ => Err(Refusal::Unsupported),
        }
    }
}

fn writable_disk(access: Access) -> Result<(), Refusal> {
    match access {
        Access::ReadWrite => Ok(()),
        Access::ReadOnly => Err(Refusal::IoError),
    }
}

/// `data`, provided that there is none in the direction that the operation does not have.
fn only<'a>(data: View<'a>, other: View<'_>) -> Result<View<'a>, Refusal> {
    if other.is_empty() {
        Ok(data)
    } else {
        Err(Refusal::IoError)
    }
}

/// The offset of `data` on the disk, when it is within every limit.
fn sectors(sector: u64, data: View<'_>, size: u64) -> Option<u64> {
    let len = u64::try_from(data.len()).ok()?;
    if data.len() > MAX_DATA || data.range_count() > MAX_DATA_SEGMENTS {
        return None;
    }
    bounded(sector, len, size)
}

/// The byte offset of `length` bytes from `sector`, when they are whole sectors inside the disk.
fn bounded(sector: u64, length: u64, size: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR)?;
    let end = offset.checked_add(length)?;
    (length.checked_rem(SECTOR)? == 0 && end <= size).then_some(offset)
}

fn ranges(
    from: View<'_>,
    memory: &GuestMemoryMmap,
    size: u64,
    known_flags: u32,
) -> Result<Ranges, Refusal> {
    let mut parsed = Ranges {
        items: [Range::default(); MAX_RANGES],
        count: from.len() / RANGE,
    };
    if from.is_empty() || !from.len().is_multiple_of(RANGE) || parsed.count > MAX_RANGES {
        return Err(Refusal::IoError);
    }
    let mut rest = from;
    for item in parsed.items.iter_mut().take(parsed.count) {
        let bytes: [u8; RANGE] = rest.read_array(memory).ok_or(Refusal::IoError)?;
        let raw = RawRange::read_from_bytes(&bytes).map_err(|_| Refusal::IoError)?;
        if raw.flags.get() & !known_flags != 0 {
            return Err(Refusal::Unsupported);
        }
        let length = u64::from(raw.sectors.get()).saturating_mul(SECTOR);
        *item = Range {
            offset: bounded(raw.sector.get(), length, size).ok_or(Refusal::IoError)?,
            length,
            unmap: raw.flags.get() & UNMAP != 0,
        };
        rest = rest.after(RANGE);
    }
    Ok(parsed)
}
