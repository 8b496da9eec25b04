//! A disk whose bytes are those of one file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, FileType, OFlags, fallocate, fcntl_getfl, fstat};
use rustix::io::Errno;
use vm_memory::GuestMemoryMmap;

use super::config::Access;
use super::disk::{Disk, OpenError, SECTOR};
use crate::scatter::{View, io as guest_io};

/// Zeroes for file systems that cannot make them.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A raw file.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    size: u64,
}

impl RawDisk {
    /// Takes a regular file whose length is the disk's size.
    ///
    /// # Errors
    /// [`OpenError`] when it is not one, or cannot be written although `access` says so.
    pub fn open(file: OwnedFd, access: Access) -> Result<Self, OpenError> {
        let size = examine(&file, access)?;
        Ok(Self {
            file: file.into(),
            size,
        })
    }
}

/// The size of a regular file that can be used as `access` says.
pub(super) fn examine(file: &OwnedFd, access: Access) -> Result<u64, OpenError> {
    let stat = fstat(file).map_err(|errno| OpenError::Examine(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenError::NotAFile);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(OpenError::Size(size));
    }
    let flags = fcntl_getfl(file).map_err(|errno| OpenError::Examine(errno.into()))?;
    if access == Access::ReadWrite && !flags.contains(OFlags::RDWR) {
        return Err(OpenError::NotWritable);
    }
    Ok(size)
}

/// Repeats a positioned transfer until the whole view was moved.
fn whole(
    mut view: View<'_>,
    mut offset: u64,
    end: io::ErrorKind,
    mut transfer: impl FnMut(View<'_>, u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !view.is_empty() {
        let count = transfer(view, offset)?;
        if count == 0 {
            return Err(end.into());
        }
        view = view.after(count);
        offset = offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(())
}

impl Disk for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, memory: &GuestMemoryMmap, into: View<'_>, offset: u64) -> io::Result<()> {
        whole(
            into,
            offset,
            io::ErrorKind::UnexpectedEof,
            |view, offset| guest_io::read_at(&self.file, memory, view, offset),
        )
    }

    fn write_at(&self, memory: &GuestMemoryMmap, from: View<'_>, offset: u64) -> io::Result<()> {
        whole(from, offset, io::ErrorKind::WriteZero, |view, offset| {
            guest_io::write_at(&self.file, memory, view, offset)
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        allocate(&self.file, punch, offset, length).map(|_| ())
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let fast = if unmap {
            FallocateFlags::PUNCH_HOLE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        if allocate(&self.file, fast | FallocateFlags::KEEP_SIZE, offset, length)? {
            return Ok(());
        }
        let mut at = offset;
        let end = offset.saturating_add(length);
        while at < end {
            let now = usize::try_from(end.saturating_sub(at)).unwrap_or(ZEROES.len());
            let zeroes = ZEROES.get(..now.min(ZEROES.len())).unwrap_or(&ZEROES);
            self.file.write_all_at(zeroes, at)?;
            at = at.saturating_add(u64::try_from(zeroes.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}

/// Asks the file system to change a range; false when it cannot.
fn allocate(file: &File, how: FallocateFlags, offset: u64, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    loop {
        return match fallocate(file, how, offset, length) {
            Ok(()) => Ok(true),
            Err(Errno::INTR) => continue,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(errno.into()),
        };
    }
}
