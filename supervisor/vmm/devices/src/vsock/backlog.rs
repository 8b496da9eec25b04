//! Bytes from the guest that its service has not taken yet.

use std::collections::VecDeque;

use vm_memory::GuestMemoryMmap;

use crate::scatter::View;

/// Bytes copied at once.
const CHUNK: usize = 4096;

/// A first-in first-out buffer. Its size is bounded by the credit that the guest was given, not here; its memory is
/// the next power of two, and none when it is empty.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<u8>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Some of the bytes, oldest first; none only when there are none.
    pub(super) fn front(&self) -> &[u8] {
        self.0.as_slices().0
    }

    /// Appends bytes of guest memory; false when they could not be read.
    pub(super) fn push(&mut self, memory: &GuestMemoryMmap, from: View<'_>) -> bool {
        let wanted = self.len().saturating_add(from.len());
        if wanted > self.0.capacity() {
            let capacity = wanted.checked_next_power_of_two().unwrap_or(wanted);
            self.0.reserve_exact(capacity.saturating_sub(self.len()));
        }
        let mut chunk = [0; CHUNK];
        let mut rest = from;
        while !rest.is_empty() {
            let count = rest.read(memory, &mut chunk);
            if count == 0 {
                return false;
            }
            self.0.extend(chunk.get(..count).unwrap_or_default());
            rest = rest.after(count);
        }
        true
    }

    /// Forgets the oldest `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.0.drain(..count.min(self.len()));
        if self.is_empty() {
            self.0 = VecDeque::new();
        }
    }
}
