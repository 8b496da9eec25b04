//! What to do with an image: the result of looking at it.

use std::ops::Range;

use crate::{ImageError, SetupHeader};

/// A piece of the file and its place in guest memory. What `memory` has more than `file` are zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Bytes of the file, inside of it; maybe none.
    pub file: Range<u64>,
    /// Guest addresses, inside of RAM, at least as many as there are bytes.
    pub memory: Range<u64>,
}

/// Where the first vCPU begins, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 32-bit protected mode without paging, with a PVH start info.
    Pvh {
        /// First instruction.
        address: u32,
    },
    /// In long mode with the first 4 GiB mapped to themselves, with a zero page.
    Long {
        /// First instruction.
        address: u64,
        /// What the zero page must repeat of the image.
        setup: SetupHeader,
    },
}

/// What to load, and where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// By address; disjoint.
    pub segments: Vec<Segment>,
    /// Inside the bytes of a segment.
    pub entry: Entry,
    /// First address after everything that the kernel uses before it reads its memory map.
    pub end: u64,
}

/// The addresses of `len` bytes at `start`, if RAM has them all.
pub(crate) fn in_ram(start: u64, len: u64, ram: &Range<u64>) -> Result<Range<u64>, ImageError> {
    let end = start.checked_add(len);
    end.filter(|end| start >= ram.start && *end <= ram.end)
        .map(|end| start..end)
        .ok_or(ImageError::OutsideRam {
            start,
            end: start.saturating_add(len),
            ram_start: ram.start,
            ram_end: ram.end,
        })
}
