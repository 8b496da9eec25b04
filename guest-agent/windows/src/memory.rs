//! The mapped window memory, and the bytes of a pixman image. The only unsafe code of this program: raw memory in,
//! bounds-checked slices and writes out. It knows no windows and no slots.
#![expect(
    unsafe_code,
    reason = "a mapping shared with the host, and pixman's own memory, are only reachable by pointer"
)]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
};

use rustix::mm::{MapFlags, ProtFlags};
use smithay::reexports::pixman::Image;

/// The window memory: written here, read by the host at any time.
#[derive(Debug)]
pub(crate) struct WindowMemory {
    base: NonNull<u8>,
    len: usize,
}

impl WindowMemory {
    /// Maps `len` bytes of `file` for reading and writing.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub(crate) fn map(file: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing of this process.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to `offset`; `false`, and nothing is written, when they would not fit.
    #[must_use]
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let fits = offset
            .checked_add(bytes.len())
            .is_some_and(|end| end <= self.len);
        if fits {
            // SAFETY: the range lies in the mapping by the check above, no reference into the mapping ever exists
            // in this process, and `bytes`, being a slice of other memory, cannot overlap it.
            unsafe {
                ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    self.base.as_ptr().add(offset),
                    bytes.len(),
                );
            }
        }
        fits
    }
}

impl Drop for WindowMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and unused from here on.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::warn!(%error, "cannot unmap the window memory");
        }
    }
}

/// The pixels of an image, row after row, each [`Image::stride`] bytes.
pub(crate) fn pixels<'a>(image: &'a Image<'static, 'static>) -> &'a [u8] {
    // SAFETY: reading the pointer does not change the image.
    let data = unsafe { image.data() };
    if data.is_null() {
        return &[];
    }
    // SAFETY: pixman allocated `stride` bytes for each of `height` rows and initialised them (the image was made
    // cleared); the shared borrow of the image keeps it alive and unwritten for as long as the slice lives.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), image.stride() * image.height()) }
}

/// Takes over a descriptor that this process inherited.
///
/// # Errors
/// When there is no such descriptor.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only borrowed for the check that follows, which fails cleanly if the number is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(descriptor)?;
    // SAFETY: it is open, was named on the command line to be ours, and this runs once, before any other file of
    // this program is opened, so nothing else owns the number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use super::*;

    #[test]
    fn writes_reach_the_file_and_never_leave_the_mapping() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory");
        std::fs::write(&path, [0; 16]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut memory = WindowMemory::map(&file, 16).unwrap();
        for (offset, bytes, fits) in [
            (0, &[1_u8, 2][..], true),
            (14, &[3, 4], true),
            (15, &[9, 9], false),
            (16, &[], true),
            (17, &[], false),
            (usize::MAX, &[9], false),
        ] {
            assert_eq!(memory.write(offset, bytes), fits, "{offset}");
        }
        let mut seen = Vec::new();
        File::open(&path).unwrap().read_to_end(&mut seen).unwrap();
        assert_eq!(seen, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4]);
    }
}
