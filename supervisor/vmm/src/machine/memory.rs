//! Guest RAM: private anonymous memory, in one or two pieces around the hole below 4 GiB.

use std::ops::Range;
use std::sync::Arc;

use casemate_devices::virtio::Memory;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::layout;

/// Smallest guest that is worth starting: a kernel, its initrd and the tables must fit.
const MIN: u64 = 32 << 20;

/// RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RamError {
    /// Less than a kernel needs, or more than the vCPU can address below the 64-bit PCI window.
    #[error("{mib} MiB of memory; this machine's VMs can have {min} to {max} MiB")]
    Size {
        /// What was asked for.
        mib: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// The kernel refused the mapping.
    #[error("cannot reserve guest memory")]
    Map(#[source] vm_memory::mmap::FromRangesError),
}

/// Reserves `bytes` of guest RAM below `limit`. Pages are given by the kernel as the guest touches them.
pub(crate) fn allocate(bytes: u64, limit: u64) -> Result<Memory, RamError> {
    let max = limit - (layout::HOLE_END - layout::HOLE_START);
    if !(MIN..=max).contains(&bytes) {
        return Err(RamError::Size {
            mib: bytes >> 20,
            min: MIN >> 20,
            max: max >> 20,
        });
    }
    let ranges: Vec<_> = regions(bytes)
        .into_iter()
        .map(|range| {
            let len = usize::try_from(range.end - range.start).expect("64-bit program");
            (GuestAddress(range.start), len)
        })
        .collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).map_err(RamError::Map)?;
    Ok(Arc::new(memory))
}

/// The guest addresses of `bytes` of RAM.
pub(crate) fn regions(bytes: u64) -> Vec<Range<u64>> {
    match bytes.checked_sub(layout::HOLE_START) {
        None | Some(0) => vec![0..bytes],
        Some(above) => vec![
            0..layout::HOLE_START,
            layout::HOLE_END..layout::HOLE_END + above,
        ],
    }
}

/// First address after the RAM below the hole.
pub(crate) fn low_end(bytes: u64) -> u64 {
    bytes.min(layout::HOLE_START)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_hole() {
        const GIB: u64 = 1 << 30;
        for (bytes, expected) in [
            (GIB, vec![0..GIB]),
            (3 * GIB, vec![0..3 * GIB]),
            (3 * GIB + 4096, vec![0..3 * GIB, 4 * GIB..4 * GIB + 4096]),
            (8 * GIB, vec![0..3 * GIB, 4 * GIB..9 * GIB]),
        ] {
            assert_eq!(regions(bytes), expected, "{bytes:#x}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let limit = layout::pci_window_64(36).start;
        for bytes in [0, MIN - 1, limit, u64::MAX] {
            assert!(matches!(allocate(bytes, limit), Err(RamError::Size { .. })));
        }
        assert!(allocate(MIN, limit).is_ok());
    }
}
