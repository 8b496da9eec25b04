//! virtio-balloon (virtio 1.2, 5.5): memory that the guest gives back to the host.
//!
//! Three ways: the host asks for an amount (inflate), the guest reports free pages on its own (reporting), and
//! before a snapshot the host asks for every free page once (hinting). Statistics are not offered. Whatever a guest names,
//! only whole pages of its own RAM are ever given up, by `discard`; the window memory is not RAM and cannot be named.
//! A deflated page needs nothing from us: the guest touches it and the kernel gives a zeroed one.
//!
//! A VM with an assigned device has no balloon: its pages are pinned, and one that was replaced under a device that
//! writes to memory would split the two views of it.

mod device;
mod discard;
#[cfg(test)]
mod tests;

pub use device::{Balloon, BalloonHandle, MAX_PFNS};
pub use discard::{PAGE, discard};
