//! Who may draw where in the window memory: the host decides offsets, a guest only asks for sizes.

use std::collections::BTreeMap;

/// Slots begin at pages, so that a guest can map them apart.
const ALIGN: u64 = 4096;

/// Rows begin at cache lines.
const ROW_ALIGN: u32 = 64;

/// A piece of window memory. Made and taken back only by [`Allocator`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    offset: u64,
}

impl Extent {
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

/// Hands out pieces of one window memory.
#[derive(Debug)]
pub(super) struct Allocator {
    len: u64,
    /// Offset to length of what is handed out.
    used: BTreeMap<u64, u64>,
}

/// Bytes from row to row of a slot this wide.
pub(super) fn stride(width: u32) -> u32 {
    // `width` is at most `MAX_EXTENT`.
    width.saturating_mul(4).next_multiple_of(ROW_ALIGN)
}

impl Allocator {
    pub(super) fn new(len: u64) -> Self {
        Self {
            len,
            used: BTreeMap::new(),
        }
    }

    /// Length of the window memory.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// A free piece of this length, the first that fits.
    pub(super) fn allocate(&mut self, len: u64) -> Option<Extent> {
        let len = len.checked_next_multiple_of(ALIGN)?;
        if len == 0 {
            return None;
        }
        let mut start = 0u64;
        for (&offset, &taken) in &self.used {
            if offset.checked_sub(start)? >= len {
                break;
            }
            start = offset.checked_add(taken)?;
        }
        if start.checked_add(len)? > self.len {
            return None;
        }
        self.used.insert(start, len);
        Some(Extent { offset: start })
    }

    /// As many pieces as asked for, or none.
    pub(super) fn allocate_all(&mut self, count: u8, len: u64) -> Option<Vec<Extent>> {
        let mut extents = Vec::new();
        for _ in 0..count {
            match self.allocate(len) {
                Some(extent) => extents.push(extent),
                None => {
                    for extent in extents {
                        self.free(extent);
                    }
                    return None;
                }
            }
        }
        Some(extents)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "a piece that was given back must not be used again"
    )]
    pub(super) fn free(&mut self, extent: Extent) {
        self.used.remove(&extent.offset);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is asked and given back, pieces lie inside, begin at pages and never overlap.
        #[test]
        fn pieces_never_overlap(ops in prop::collection::vec((any::<bool>(), 0..40_000u64), 1..80)) {
            let mut allocator = Allocator::new(256 * 1024);
            let mut held = Vec::new();
            for (give_back, number) in ops {
                if give_back && !held.is_empty() {
                    let (extent, _) = held.remove(usize::try_from(number).unwrap() % held.len());
                    allocator.free(extent);
                } else if let Some(extent) = allocator.allocate(number) {
                    held.push((extent, number));
                }
                let mut pieces: Vec<(u64, u64)> =
                    held.iter().map(|(extent, len)| (extent.offset, extent.offset + len)).collect();
                pieces.sort_unstable();
                prop_assert!(pieces.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                prop_assert!(pieces.iter().all(|&(start, end)| start % ALIGN == 0 && end <= 256 * 1024));
            }
        }
    }

    #[test]
    fn what_was_given_back_is_whole_again() {
        let mut allocator = Allocator::new(4 * ALIGN);
        let all = allocator.allocate_all(4, ALIGN).unwrap();
        assert_eq!(allocator.allocate(1), None);
        for extent in all {
            allocator.free(extent);
        }
        assert_eq!(allocator.allocate_all(2, 3 * ALIGN), None);
        assert!(allocator.allocate(4 * ALIGN).is_some());
        assert_eq!(allocator.allocate(u64::MAX), None);
    }
}
