//! Volumes without a name: a fresh overlay or private volume that ends with the last descriptor.
//!
//! They are made with `O_TMPFILE`, so no crash, kill or power cut leaves one behind.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use imago::{
    FormatCreateBuilder as _, file::File as ImageFile, qcow2::Qcow2CreateBuilder,
    storage::StorageOpenOptions,
};

use crate::StoreError;

/// A nameless file in `dir`, readable and writable.
pub(crate) fn nameless(dir: &Path) -> Result<File, StoreError> {
    let flags = i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).expect("open flags fit an int");
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .mode(0o600)
        .open(dir)
        .map_err(|error| StoreError::io("make a volume in", dir, error))
}

/// Formats `file` as an empty qcow2 overlay of `size` bytes. `base` is only a note for a person with `qemu-img`;
/// whoever opens the overlay is handed the base as a descriptor.
pub(crate) fn format_overlay(file: &File, size: u64, base: &Path) -> Result<(), StoreError> {
    let wrap = |error: io::Error| StoreError::io("format an overlay of", base, error);
    let copy = file.try_clone().map_err(wrap)?;
    let image =
        ImageFile::from_open_file(copy, StorageOpenOptions::new().write(true)).map_err(wrap)?;
    Qcow2CreateBuilder::<ImageFile>::new(image)
        .size(size)
        .backing(base.to_string_lossy().into_owned(), "raw".to_owned())
        .create()
        .map_err(wrap)
}
