//! A disk that is a qcow2 file over a raw base, both given as descriptors.
//!
//! The `imago` crate reads and writes the format. The overlay's header may name a base or a data file; both
//! names are ignored or refused, because the base given here overrides the one and nothing may be opened implicitly.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as ImageFile;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder as _, StorageOpenOptions};
use rustix::fs::fstat;
use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::config::Access;
use super::disk::{Disk, OpenError, SECTOR};
use super::raw::examine;
use crate::scatter::{View, io as guest_io};

/// A qcow2 overlay. Clusters that were never written come from the base, which is never written.
pub struct Overlay {
    /// Discards alone need it for themselves: they change the size of what others may be reading.
    image: RwLock<FormatAccess<ImageFile>>,
    size: u64,
    durable: bool,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Overlay")
            .field("size", &self.size)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

impl Overlay {
    /// Opens `overlay`, a qcow2 file open for reading and writing, over `base`, a raw file.
    ///
    /// An overlay without a name cannot outlive its VM, so the guest's flushes cost nothing on it.
    ///
    /// # Errors
    /// [`OpenError`], also when the overlay wants any file besides the two.
    pub fn open(overlay: OwnedFd, base: OwnedFd) -> Result<Self, OpenError> {
        examine(&base, Access::ReadOnly)?;
        examine(&overlay, Access::ReadWrite).or_else(|error| match error {
            // A qcow2 file may end anywhere.
            OpenError::Size(size) if size > 0 => Ok(size),
            other => Err(other),
        })?;
        let named = fstat(&overlay)
            .map_err(|errno| OpenError::Examine(errno.into()))?
            .st_nlink
            > 0;

        let base = storage(base, false).map_err(OpenError::Base)?;
        let base = Raw::builder(base)
            .write(false)
            .open(DenyImplicitOpenGate::default())
            .map_err(OpenError::Base)?;
        let overlay = storage(overlay, true).map_err(OpenError::Overlay)?;
        let image = Qcow2::<ImageFile>::builder(overlay)
            .write(true)
            .backing(Some(FormatAccess::new(base)))
            .data_file(None)
            .open(DenyImplicitOpenGate::default())
            .map_err(OpenError::Overlay)?;
        if image.requires_external_data_file() {
            return Err(OpenError::DataFile);
        }
        let image = FormatAccess::new(image);
        let size = image.size();
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(OpenError::Size(size));
        }
        Ok(Self {
            image: RwLock::new(image),
            size,
            durable: named,
        })
    }
}

impl Overlay {
    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<ImageFile>> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, FormatAccess<ImageFile>> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn storage(file: OwnedFd, writable: bool) -> io::Result<ImageFile> {
    ImageFile::from_open_file(File::from(file), StorageOpenOptions::new().write(writable))
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, memory: &GuestMemoryMmap, into: View<'_>, offset: u64) -> io::Result<()> {
        let slices =
            guest_io::slices(memory, into).collect::<io::Result<Vec<VolatileSlice<'_>>>>()?;
        let (vector, _mapped) = IoVectorMut::from_volatile_slice(&slices);
        self.shared().readv(vector, offset)
    }

    fn write_at(&self, memory: &GuestMemoryMmap, from: View<'_>, offset: u64) -> io::Result<()> {
        let slices =
            guest_io::slices(memory, from).collect::<io::Result<Vec<VolatileSlice<'_>>>>()?;
        let (vector, _mapped) = IoVector::from_volatile_slice(&slices);
        self.shared().writev(vector, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.durable {
            let image = self.shared();
            image.flush()?;
            image.sync()?;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.alone().discard_to_zero(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap {
            self.alone().discard_to_zero(offset, length)
        } else {
            self.shared().write_zeroes(offset, length)
        }
    }
}
