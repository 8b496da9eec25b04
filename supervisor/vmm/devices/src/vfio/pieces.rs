//! Which parts of a BAR the guest may reach without us.

use std::ops::Range;

/// Memory is mapped in these.
const PAGE: u64 = 4096;

/// The parts of `mappable`, in whole pages of a BAR of `len` bytes, that touch nothing that is `trapped`. Sorted, and
/// disjoint whatever the kernel said. A BAR smaller than a page gives nothing.
pub fn pieces(len: u64, mappable: &[Range<u64>], trapped: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut walls: Vec<_> = trapped
        .iter()
        .filter(|range| range.start < range.end)
        .map(|range| floor(range.start)..ceiling(range.end))
        .collect();
    let mut found = Vec::new();
    let mut areas = mappable.to_vec();
    areas.sort_by_key(|area| area.start);
    for area in areas {
        // Inwards: half a page at an edge belongs to something else.
        let mut start = ceiling(area.start);
        let end = floor(area.end.min(len));
        walls.sort_by_key(|wall| wall.start);
        for wall in &walls {
            if wall.start >= end {
                break;
            }
            if wall.end <= start {
                continue;
            }
            if wall.start > start {
                found.push(start..wall.start);
            }
            start = wall.end;
        }
        if start < end {
            found.push(start..end);
        }
        // What was given once is not given again.
        walls.push(area.start..area.end);
    }
    found
}

fn floor(address: u64) -> u64 {
    address.saturating_sub(address % PAGE)
}

/// The last page of all is never reached: nothing ends there.
fn ceiling(address: u64) -> u64 {
    address
        .checked_next_multiple_of(PAGE)
        .unwrap_or(floor(u64::MAX))
}
