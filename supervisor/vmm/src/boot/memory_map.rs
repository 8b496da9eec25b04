//! What the guest is told of its memory, whatever the boot protocol.

use std::ops::Range;

use crate::machine::{layout, memory};

/// What a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// For the guest to use.
    Ram,
    /// Not for the guest to use.
    Reserved,
}

/// One range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its guest addresses.
    pub(super) range: Range<u64>,
    /// What it is.
    pub(super) kind: Kind,
}

/// RAM without the tables, and the configuration space, which Linux wants to see reserved. Sorted.
pub(super) fn entries(ram: u64) -> Vec<Entry> {
    let entry = |range, kind| Entry { range, kind };
    let mut map = vec![
        entry(0..layout::LOW_RAM_END, Kind::Ram),
        entry(layout::LOW_RAM_END..layout::HIGH_RAM_START, Kind::Reserved),
        entry(layout::HIGH_RAM_START..memory::low_end(ram), Kind::Ram),
        entry(
            layout::ECAM..layout::ECAM + layout::ECAM_LEN,
            Kind::Reserved,
        ),
    ];
    map.extend(
        memory::regions(ram)
            .into_iter()
            .skip(1)
            .map(|region| entry(region.start..region.start + region.len, Kind::Ram)),
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_sorted_disjoint_and_holds_all_ram_but_the_tables() {
        for ram in [64 << 20, 3 << 30, (3 << 30) + (1 << 20), 64_u64 << 30] {
            let map = entries(ram);
            for pair in map.windows(2) {
                assert!(pair[0].range.end <= pair[1].range.start, "{ram:#x}");
            }
            let usable: u64 = map
                .iter()
                .filter(|entry| entry.kind == Kind::Ram)
                .map(|entry| entry.range.end - entry.range.start)
                .sum();
            let tables = layout::HIGH_RAM_START - layout::LOW_RAM_END;
            assert_eq!(usable, ram - tables, "{ram:#x}");
        }
    }
}
