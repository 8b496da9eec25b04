//! Guest RAM: private memory, anonymous or of a snapshot, in one or two pieces around the hole below 4 GiB.

use std::fs::File;
use std::sync::Arc;

use casemate_devices::virtio::Memory;
use casemate_vm::RamSize;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::layout;

/// RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RamError {
    /// More than the vCPU can address below the 64-bit PCI window.
    #[error("{mib} MiB of memory; a VM on this processor can have at most {max} MiB")]
    TooMuch {
        /// What was asked for.
        mib: u64,
        /// Most.
        max: u64,
    },
    /// The kernel refused the mapping.
    #[error("cannot reserve guest memory; a saved one may be cut off")]
    Map(#[source] vm_memory::mmap::MmapRegionError),
    /// The pieces do not fit together.
    #[error("cannot put guest memory together")]
    Regions(#[source] vm_memory::GuestRegionCollectionError),
    /// The memory file could not be used twice.
    #[error("cannot map the memory file")]
    File(#[source] std::io::Error),
}

/// Reserves guest RAM below `limit`. Pages are given by the kernel as the guest touches them.
/// With a file, RAM begins with its bytes, and what the guest writes stays in this process.
pub(crate) fn allocate(
    size: RamSize,
    limit: u64,
    saved: Option<&File>,
) -> Result<Memory, RamError> {
    let bytes = size.bytes();
    let max = limit - (layout::HOLE_END - layout::HOLE_START);
    if bytes > max {
        return Err(RamError::TooMuch {
            mib: bytes >> 20,
            max: max >> 20,
        });
    }
    let mut offset = 0;
    let regions = regions(bytes)
        .into_iter()
        .map(|region| {
            let file = match saved {
                Some(file) => Some(FileOffset::new(
                    file.try_clone().map_err(RamError::File)?,
                    offset,
                )),
                None => None,
            };
            offset += region.len;
            map(region, file)
        })
        .collect::<Result<_, _>>()?;
    let memory = GuestMemoryMmap::from_regions(regions).map_err(RamError::Regions)?;
    Ok(Arc::new(memory))
}

/// Maps one piece, private to this process.
fn map(region: Region, file: Option<FileOffset>) -> Result<GuestRegionMmap, RamError> {
    let len = usize::try_from(region.len).expect("64-bit program");
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    let flags = match file {
        Some(_) => flags,
        None => flags | libc::MAP_ANONYMOUS,
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let mapping = MmapRegion::build(file, len, protection, flags).map_err(RamError::Map)?;
    GuestRegionMmap::new(mapping, GuestAddress(region.start)).ok_or(RamError::TooMuch {
        mib: region.len >> 20,
        max: u64::MAX >> 20,
    })
}

/// One piece of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Its first guest address.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// Where `bytes` of RAM are.
pub(crate) fn regions(bytes: u64) -> Vec<Region> {
    let low = Region {
        start: 0,
        len: low_end(bytes),
    };
    match bytes - low.len {
        0 => vec![low],
        len => vec![
            low,
            Region {
                start: layout::HOLE_END,
                len,
            },
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
            (GIB, &[(0, GIB)][..]),
            (3 * GIB, &[(0, 3 * GIB)]),
            (3 * GIB + 4096, &[(0, 3 * GIB), (4 * GIB, 4096)]),
            (8 * GIB, &[(0, 3 * GIB), (4 * GIB, 5 * GIB)]),
        ] {
            let found: Vec<_> = regions(bytes)
                .iter()
                .map(|region| (region.start, region.len))
                .collect();
            assert_eq!(found, expected, "{bytes:#x}");
        }
    }

    #[test]
    fn no_more_than_the_processor_addresses() {
        let limit = layout::pci_window_64(36).start;
        assert!(matches!(
            allocate(RamSize::MAX, limit, None),
            Err(RamError::TooMuch { .. })
        ));
        assert!(allocate(RamSize::MIN, limit, None).is_ok());
        let limit = layout::pci_window_64(39).start;
        assert!(allocate(RamSize::MAX, limit, None).is_ok());
    }
}
