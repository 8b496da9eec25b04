//! What was moved and what was lost, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a frame went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Loss {
    /// The guest's chain is broken, outside memory, or has parts that the device should write.
    BadChain,
    /// Shorter than its header, than a frame, or longer than any.
    Length,
    /// The guest sent from an address that is not its own.
    ForeignSource,
    /// The frame has a VLAN tag.
    Vlan,
    /// Header fields that contradict the frame, or offloads that were not negotiated.
    Header,
    /// The wire is gone.
    Unplugged,
    /// The other end sent something that is no frame.
    Incoming,
    /// The guest cannot take it: too large for its buffers, or segments without having agreed to.
    Undeliverable,
    /// The guest gave buffers that cannot be used.
    BadBuffer,
}

const LOSSES: usize = 9;

/// Counters of one device; read from any thread.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    lost: [AtomicU64; LOSSES],
}

impl Counters {
    /// Frames that went out.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Frames that the guest got.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Frames lost for one reason.
    pub fn lost(&self, why: Loss) -> u64 {
        self.lost
            .get(why as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_lost(&self, why: Loss) {
        if let Some(count) = self.lost.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
