//! What a block device needs of the bytes behind it, and why a file may not serve.

use std::io;

use vm_memory::GuestMemoryMmap;

use crate::scatter::View;

/// Bytes in a sector, the unit of every address and size in virtio-blk.
pub const SECTOR: u64 = 512;

/// The bytes of a disk. Calls block; each does everything or fails, and a failure concerns this guest only. Several
/// threads call at once; of calls for one range at one time either may come first.
///
/// The device has checked every range against [`Disk::size`] before it calls.
pub trait Disk: Send + Sync {
    /// Size in bytes, a multiple of [`SECTOR`]. Constant.
    fn size(&self) -> u64;

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// The file's; [`io::ErrorKind::UnexpectedEof`] when it became shorter.
    fn read_at(&self, memory: &GuestMemoryMmap, into: View<'_>, offset: u64) -> io::Result<()>;

    /// Writes all of `from` at `offset`. Durable after [`Disk::flush`].
    ///
    /// # Errors
    /// The file's, for instance when its file system is full; part of the bytes may have been written.
    fn write_at(&self, memory: &GuestMemoryMmap, from: View<'_>, offset: u64) -> io::Result<()>;

    /// Returns when everything written is as durable as the file can be.
    ///
    /// # Errors
    /// The file's.
    fn flush(&self) -> io::Result<()>;

    /// Says that a range is of no more use; it may read as anything the guest itself once saw there, or zeroes.
    ///
    /// # Errors
    /// The file's; that it cannot give space back is not one.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes a range read as zeroes; with `unmap` its space may be given back.
    ///
    /// # Errors
    /// The file's.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}

/// A descriptor cannot be the disk it is said to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel did not answer a question about it.
    #[error("cannot examine the descriptor of a disk")]
    Examine(#[source] io::Error),
    /// A pipe, socket, directory or the like.
    #[error("the descriptor of a disk is not a regular file")]
    NotAFile,
    /// It is empty or does not end on a sector.
    #[error("a disk of {0} bytes: the size must be a positive multiple of {SECTOR}")]
    Size(u64),
    /// The guest is to write but the descriptor cannot.
    #[error("the descriptor of a writable disk is open for reading only")]
    NotWritable,
    /// The overlay is not a qcow2 image that can be used as one.
    #[error("not a usable qcow2 overlay")]
    Overlay(#[source] io::Error),
    /// The base could not be opened as a raw image.
    #[error("not a usable base of an overlay")]
    Base(#[source] io::Error),
    /// The overlay keeps its data in another file, which is never opened.
    #[error("the overlay names a data file of its own")]
    DataFile,
}
