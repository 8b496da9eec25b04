//! Where the initrd goes.

use std::ops::Range;

/// Initrds begin on pages.
const PAGE: u64 = 4096;

/// Kernel and initrd do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "kernel and initrd need more than the VM's {mib} MiB of memory below 4 GiB: give it more memory"
)]
pub struct NoRoom {
    /// RAM below the hole.
    pub mib: u64,
}

/// The place of an initrd of `len` bytes: at the end of `ram`, where nothing that the kernel unpacks reaches it, and
/// after `kernel_end`.
///
/// # Errors
/// [`NoRoom`] when that is not to be had.
pub fn place_initrd(len: u64, kernel_end: u64, ram: &Range<u64>) -> Result<Range<u64>, NoRoom> {
    let end = ram.end;
    let start = end
        .checked_sub(len)
        .map(|start| start.saturating_sub(start % PAGE))
        .filter(|start| *start >= kernel_end.max(ram.start));
    match start {
        Some(start) => Ok(start..start.saturating_add(len)),
        None => Err(NoRoom { mib: end >> 20 }),
    }
}
