//! Window memory: a PCI function with one BAR of memory that the guest shares with the compositor.

use std::io;

/// Puts the window memory into the guest's address space. On KVM: one memory slot over a mapping of the memfd, whose
/// length the mapper knows.
///
/// Called from vCPU threads when the guest enables, moves or disables the BAR; never twice in a row the same.
pub trait SlotMapper: Send + Sync {
    /// Makes the memory appear at guest address `address`, a multiple of its length inside the PCI window.
    ///
    /// # Errors
    /// The kernel's; the BAR then reads as all ones.
    fn map(&self, address: u64) -> io::Result<()>;

    /// Makes it disappear.
    fn unmap(&self);
}
