//! The buffers of one descriptor chain, as two lists of guest memory ranges that were checked once.
//!
//! A device parses from [`View`]s: cheap copies that name a part of such a list by length, so that a driver may cut
//! its bytes into descriptors wherever it likes. [`io`] moves bytes between a view and a descriptor of the
//! host without a copy. Nothing here knows what the bytes mean.

pub mod io;
#[cfg(test)]
mod tests;

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use crate::virtio::Chain;

/// Most ranges on each side of a chain. An indirect table may have 65535 entries, and each costs a look-up, so a
/// chain that has more is refused whole. A full-sized disk request has 130.
pub const MAX_SEGMENTS: usize = 160;

/// Most descriptors of a chain, empty ones included: an indirect table of 65535 empty buffers, in each of a queue's
/// chains, would hold a device's thread for seconds.
pub const MAX_DESCRIPTORS: usize = 2 * MAX_SEGMENTS;

/// A chain that no device can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChain {
    /// More ranges than [`MAX_SEGMENTS`] on one side, or more than [`MAX_DESCRIPTORS`] descriptors.
    #[error("more than {MAX_SEGMENTS} buffers in one chain")]
    TooLong,
    /// A range that is not guest memory, wholly or in part.
    #[error("a buffer outside guest memory")]
    OutsideMemory,
    /// A readable buffer after a writable one.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// It loops, its next index is out of range, or an indirect table is malformed.
    #[error("the descriptor chain is broken")]
    Broken,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    address: GuestAddress,
    len: usize,
}

/// The ranges of one side of a chain, in order, all of them guest memory.
#[derive(Debug)]
struct Segments {
    items: [Segment; MAX_SEGMENTS],
    count: usize,
    bytes: usize,
}

impl Segments {
    const fn new() -> Self {
        let empty = Segment {
            address: GuestAddress(0),
            len: 0,
        };
        Self {
            items: [empty; MAX_SEGMENTS],
            count: 0,
            bytes: 0,
        }
    }

    fn clear(&mut self) {
        self.count = 0;
        self.bytes = 0;
    }

    fn push(&mut self, segment: Segment) -> Result<(), BadChain> {
        let place = self.items.get_mut(self.count).ok_or(BadChain::TooLong)?;
        *place = segment;
        self.count = self.count.saturating_add(1);
        // Cannot saturate: the iterator of a chain ends before 2^32 bytes.
        self.bytes = self.bytes.saturating_add(segment.len);
        Ok(())
    }

    fn view(&self) -> View<'_> {
        View {
            segments: self.items.get(..self.count).unwrap_or_default(),
            skip: 0,
            len: self.bytes,
        }
    }
}

/// Room for the buffers of one chain; a device keeps one and loads each chain into it.
#[derive(Debug)]
pub struct Buffers {
    readable: Segments,
    writable: Segments,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            readable: Segments::new(),
            writable: Segments::new(),
        }
    }
}

impl Buffers {
    /// Takes the buffers of `chain`, reading each descriptor once.
    ///
    /// # Errors
    /// [`BadChain`]; nothing of the chain may be used then, but its head can be given back.
    pub fn load(&mut self, chain: Chain, memory: &GuestMemoryMmap) -> Result<(), BadChain> {
        self.readable.clear();
        self.writable.clear();
        let mut unfinished = true;
        for (index, descriptor) in chain.enumerate() {
            if index >= MAX_DESCRIPTORS {
                return Err(BadChain::TooLong);
            }
            unfinished = descriptor.has_next();
            let len = usize::try_from(descriptor.len()).map_err(|_| BadChain::OutsideMemory)?;
            if len == 0 {
                continue;
            }
            let address = descriptor.addr();
            if !memory.check_range(address, len, Permissions::ReadWrite) {
                return Err(BadChain::OutsideMemory);
            }
            let segment = Segment { address, len };
            if descriptor.is_write_only() {
                self.writable.push(segment)?;
            } else if self.writable.count == 0 {
                self.readable.push(segment)?;
            } else {
                return Err(BadChain::Order);
            }
        }
        // The iterator ends silently at a bad descriptor; then the one before it still announced another.
        if unfinished {
            return Err(BadChain::Broken);
        }
        Ok(())
    }

    /// What the driver wrote for the device.
    pub fn readable(&self) -> View<'_> {
        self.readable.view()
    }

    /// Where the device may write for the driver.
    pub fn writable(&self) -> View<'_> {
        self.writable.view()
    }
}

/// Ranges of guest memory that outlive the [`Buffers`] they were loaded into: at most [`MAX_SEGMENTS`].
#[derive(Clone, Debug, Default)]
pub struct Kept {
    segments: Box<[Segment]>,
    bytes: usize,
}

impl Kept {
    /// The bytes.
    pub fn view(&self) -> View<'_> {
        View {
            segments: &self.segments,
            skip: 0,
            len: self.bytes,
        }
    }
}

/// A part of a chain's bytes.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    segments: &'a [Segment],
    skip: usize,
    len: usize,
}

impl<'a> View<'a> {
    /// Number of bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first `at` bytes and the rest; the first part is everything when there are fewer.
    #[must_use]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        let front = Self { len: at, ..self };
        let mut back = Self {
            segments: self.segments,
            skip: self.skip.saturating_add(at),
            len: self.len.saturating_sub(at),
        };
        while let [first, rest @ ..] = back.segments
            && back.skip >= first.len
        {
            back.skip = back.skip.saturating_sub(first.len);
            back.segments = rest;
        }
        (front, back)
    }

    /// The bytes after the first `count`.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        self.split_at(count).1
    }

    /// The ranges, in order.
    pub(crate) fn ranges(self) -> impl Iterator<Item = (GuestAddress, usize)> + use<'a> {
        let mut skip = self.skip;
        let mut left = self.len;
        self.segments.iter().map_while(move |segment| {
            let len = segment.len.saturating_sub(skip).min(left);
            let offset = u64::try_from(skip).ok()?;
            let address = GuestAddress(segment.address.0.checked_add(offset)?);
            skip = 0;
            left = left.saturating_sub(len);
            (len > 0).then_some((address, len))
        })
    }

    /// The ranges as a list of their own, for a device that needs them after the next chain was loaded.
    pub fn keep(self) -> Kept {
        let segments = self.ranges();
        Kept {
            segments: segments
                .map(|(address, len)| Segment { address, len })
                .collect(),
            bytes: self.len,
        }
    }

    /// Number of ranges that the bytes lie in.
    pub fn range_count(self) -> usize {
        self.ranges().count()
    }

    /// Copies bytes out, as many as fit both; returns how many.
    pub fn read(self, memory: &GuestMemoryMmap, into: &mut [u8]) -> usize {
        let mut rest = into;
        let mut done = 0_usize;
        for (address, len) in self.ranges() {
            let (now, later) = rest.split_at_mut(len.min(rest.len()));
            if now.is_empty() || memory.read_slice(now, address).is_err() {
                break;
            }
            done = done.saturating_add(now.len());
            rest = later;
        }
        done
    }

    /// Copies the first `N` bytes out; `None` when there are fewer.
    pub fn read_array<const N: usize>(self, memory: &GuestMemoryMmap) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.read(memory, &mut bytes) == N).then_some(bytes)
    }

    /// Copies bytes in, as many as fit both; returns how many.
    pub fn write(self, memory: &GuestMemoryMmap, from: &[u8]) -> usize {
        let mut rest = from;
        let mut done = 0_usize;
        for (address, len) in self.ranges() {
            let (now, later) = rest.split_at(len.min(rest.len()));
            if now.is_empty() || memory.write_slice(now, address).is_err() {
                break;
            }
            done = done.saturating_add(now.len());
            rest = later;
        }
        done
    }
}
