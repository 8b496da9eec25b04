//! Window memory: a PCI function with one BAR of memory that the guest shares with the compositor.
//!
//! BAR2 is the whole sealed memfd, 64-bit and prefetchable, and decoded from the start, so that a guest maps it
//! write-combined from `resource2_wc` without a driver. There are no registers: which bytes are which window is said on the window
//! stream. This process never looks at a pixel.

mod device;
#[cfg(test)]
mod tests;

pub use device::{DEVICE_WINDOW_MEMORY, WindowMemory};

use std::io;

/// Puts the window memory into the guest's address space. On KVM: one memory slot over a mapping of the memfd, whose
/// length the mapper knows.
///
/// Called when the function is put on the bus, and from vCPU threads when the guest moves, disables or enables the BAR;
/// never twice in a row the same.
pub trait SlotMapper: Send + Sync {
    /// Makes the memory appear at guest address `address`, a multiple of its length inside a PCI window.
    ///
    /// # Errors
    /// The kernel's; the BAR then reads as all ones.
    fn map(&self, address: u64) -> io::Result<()>;

    /// Makes it disappear. Only called when the last [`SlotMapper::map`] succeeded.
    fn unmap(&self);
}
