//! Bytes from the guest that its service has not taken yet.

use vm_memory::GuestMemoryMmap;

use crate::scatter::View;

/// A first-in first-out buffer. Its size is bounded by the credit that the guest was given, not here.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    start: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// The bytes, oldest first.
    pub(super) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Appends bytes of guest memory; false when they could not be read.
    pub(super) fn push(&mut self, memory: &GuestMemoryMmap, from: View<'_>) -> bool {
        if self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let end = self.bytes.len();
        self.bytes.resize(end.saturating_add(from.len()), 0);
        let room = self.bytes.get_mut(end..).unwrap_or_default();
        from.read(memory, room) == from.len()
    }

    /// Forgets the oldest `count` bytes; frees its memory when nothing is left.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
