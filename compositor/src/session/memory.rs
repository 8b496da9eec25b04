//! Owned resource: the read-only mapping of one VM's window memory. The only unsafe code of this program.
//!
//! A guest and its vmm write to this memory at any time. So it is never a Rust slice: rows are copied out through a
//! raw pointer, once, into memory of our own, and only pixels live there, never anything that decides.
#![expect(
    unsafe_code,
    reason = "memory shared with a guest can only be mapped and read through raw pointers"
)]

use std::{io, os::fd::OwnedFd, ptr::NonNull};

use rustix::{
    fs::{SealFlags, fcntl_get_seals, fstat},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// Largest window memory that is mapped: stops a confused launcher, not a guest, which cannot choose it.
const MAX_LEN: u64 = 4 * 1024 * 1024 * 1024;

/// Why a descriptor cannot be window memory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    #[error("window memory must be a memfd sealed against shrinking")]
    NotSealed,
    #[error("window memory of {0} bytes is empty or too large")]
    Length(u64),
    #[error("cannot map window memory")]
    Io(#[from] io::Error),
}

/// A mapped window memory.
#[derive(Debug)]
pub(crate) struct WindowMemory {
    start: NonNull<u8>,
    len: usize,
}

impl WindowMemory {
    /// Maps a memfd. It must be sealed against shrinking, or its other holders could make reads fault.
    pub(crate) fn map(fd: &OwnedFd) -> Result<Self, MapError> {
        let seals = fcntl_get_seals(fd).map_err(|_| MapError::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(MapError::NotSealed);
        }
        let size = fstat(fd).map_err(io::Error::from)?.st_size;
        let size = u64::try_from(size).unwrap_or(0);
        if size == 0 || size > MAX_LEN {
            return Err(MapError::Length(size));
        }
        let len = usize::try_from(size).map_err(|_| MapError::Length(size))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs no memory of ours; `len` is not zero.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                fd,
                0,
            )
        }
        .map_err(io::Error::from)?;
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| io::Error::other("the kernel mapped at address zero"))?;
        Ok(Self { start, len })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.len).unwrap_or(u64::MAX)
    }

    /// Copies `to.len()` bytes that begin at `offset`; `false`, and nothing copied, when they are not all inside.
    #[must_use]
    pub(crate) fn copy_to(&self, offset: u64, to: &mut [u8]) -> bool {
        let Ok(offset) = usize::try_from(offset) else {
            return false;
        };
        if offset
            .checked_add(to.len())
            .is_none_or(|end| end > self.len)
        {
            return false;
        }
        // SAFETY: `offset + to.len() <= self.len` was checked, the mapping lives as long as `self` and cannot shrink
        // (sealed), and `to` is memory of ours that cannot overlap a mapping the kernel placed. Other processes may
        // write meanwhile: then the bytes are theirs old or new, and every byte is a valid `u8`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.start.as_ptr().add(offset),
                to.as_mut_ptr(),
                to.len(),
            );
        }
        true
    }
}

impl Drop for WindowMemory {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are exactly what `mmap` gave, and nothing borrows from the mapping.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "cannot unmap window memory");
        }
    }
}
