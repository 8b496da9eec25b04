//! Guest memory with a hole, between canaries: host bytes directly before and behind each region.
#![expect(
    unsafe_code,
    reason = "regions inside of larger mappings, so that what lies next to guest memory can be looked at"
)]

use std::ops::Range;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes as _, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory as _,
};

use crate::virtio::Memory;

/// What guest memory is.
pub(super) const REGIONS: [Range<u64>; 2] = [0..0x10_0000, 0x20_0000..0x40_0000];

/// Every byte of it that nobody has written, and every byte of the canaries.
pub(super) const PATTERN: u8 = 0xa5;

/// Bytes of each canary: more than any bounce buffer of a device.
const CANARY: usize = 0x2_0000;

/// The mappings. Keep them longer than the memory.
pub(super) struct Arena(Vec<MmapRegion>);

/// Bytes of a region.
pub(super) fn len(region: &Range<u64>) -> usize {
    usize::try_from(region.end - region.start).expect("small")
}

impl Arena {
    pub(super) fn new() -> (Self, Memory) {
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for region in REGIONS {
            let whole = MmapRegion::new(len(&region) + 2 * CANARY).expect("a mapping");
            let mut builder = MmapRegionBuilder::new(len(&region))
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: `CANARY` bytes into a mapping that has a canary more on either side than this region is long, so
            // pointer and length stay inside; it is mapped until the arena is dropped, after the memory.
            builder = unsafe { builder.with_raw_mmap_pointer(whole.as_ptr().add(CANARY)) };
            let inner = builder.build().expect("page-aligned");
            regions.push(Arc::new(
                GuestRegionMmap::new(inner, GuestAddress(region.start)).expect("no overflow"),
            ));
            fill(&whole);
            mappings.push(whole);
        }
        let memory = GuestMemoryMmap::from_arc_regions(regions).expect("apart");
        (Self(mappings), Arc::new(memory))
    }

    /// Whether every canary still is what it was.
    pub(super) fn is_intact(&self) -> bool {
        self.0.iter().all(|mapping| {
            let view = mapping.as_volatile_slice();
            [0, mapping.size() - CANARY].into_iter().all(|at| {
                let mut bytes = vec![0; CANARY];
                view.read_slice(&mut bytes, at).expect("inside");
                bytes.iter().all(|byte| *byte == PATTERN)
            })
        })
    }
}

fn fill(mapping: &MmapRegion) {
    let bytes = vec![PATTERN; mapping.size()];
    mapping
        .as_volatile_slice()
        .write_slice(&bytes, 0)
        .expect("all of it");
}
