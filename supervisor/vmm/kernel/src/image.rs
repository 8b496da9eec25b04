//! A file that is read at offsets, and what can be wrong with it.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

/// Why an image is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("cannot read the kernel")]
    Read(#[from] io::Error),
    /// Not the format that was announced.
    #[error("the kernel is not {0}")]
    Format(&'static str),
    /// A piece of the file that its headers speak of is not there.
    #[error(
        "the kernel's {what} would be at bytes {start:#x} to {end:#x} of a file of {len:#x} bytes: it is cut off or damaged"
    )]
    CutOff {
        /// Which piece.
        what: &'static str,
        /// Its first byte.
        start: u64,
        /// The first byte after it.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// A number in a header is past its limit.
    #[error("the kernel has {what}, {max} are allowed: it is damaged or no Linux kernel")]
    TooMany {
        /// What there is too much of, with its number.
        what: String,
        /// The limit.
        max: u64,
    },
    /// A header contradicts itself.
    #[error("the kernel's headers are damaged: {0}")]
    Damaged(&'static str),
    /// A segment is where the VM has no memory for it.
    #[error(
        "the kernel wants memory from {start:#x} to {end:#x}; a VM of this size has {ram_start:#x} to {ram_end:#x}: give it more memory"
    )]
    OutsideRam {
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
        /// First address that a kernel may use.
        ram_start: u64,
        /// First address after them.
        ram_end: u64,
    },
    /// Two segments want one place.
    #[error("two segments of the kernel overlap at {0:#x}: it is damaged")]
    Overlap(u64),
    /// It starts where none of its bytes are.
    #[error("the kernel's entry {0:#x} is not in what it loads: it is damaged")]
    Entry(u64),
    /// No PVH note.
    #[error(
        "the kernel has no PVH entry: it was built without CONFIG_PVH, or is a bzImage instead of a vmlinux"
    )]
    NotPvh,
    /// A bzImage of a kind that cannot be started in 64-bit mode.
    #[error("the bzImage {0}: a 64-bit Linux 3.8 or newer is needed")]
    Old(&'static str),
}

/// An image of known length.
pub(crate) struct Image<'a, F> {
    file: &'a mut F,
    len: u64,
}

impl<'a, F: Read + Seek> Image<'a, F> {
    pub(crate) fn new(file: &'a mut F) -> Result<Self, ImageError> {
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, len })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The range of `len` bytes at `start`, if the file has them all.
    pub(crate) fn range(
        &self,
        what: &'static str,
        start: u64,
        len: u64,
    ) -> Result<Range<u64>, ImageError> {
        let end = start.checked_add(len).filter(|end| *end <= self.len);
        end.map(|end| start..end).ok_or(ImageError::CutOff {
            what,
            start,
            end: start.saturating_add(len),
            len: self.len,
        })
    }

    /// Reads a header at `start`.
    pub(crate) fn header<T: FromBytes + IntoBytes>(
        &mut self,
        what: &'static str,
        start: u64,
    ) -> Result<T, ImageError> {
        let mut header = T::new_zeroed();
        self.bytes(what, start, header.as_mut_bytes())?;
        Ok(header)
    }

    /// Fills `bytes` from `start`.
    pub(crate) fn bytes(
        &mut self,
        what: &'static str,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), ImageError> {
        self.range(what, start, u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_exact(bytes)?;
        Ok(())
    }
}
