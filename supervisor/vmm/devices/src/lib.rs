//! The devices of a workstation VM: PCI bus 0, the virtio-pci transport, and one folder per device.
//!
//! Everything that a guest can reach through memory, a port or a queue is parsed here; what the host kernel
//! does for us (interrupt routes, notification addresses, memory slots) is asked for through small traits that
//! the vmm implements: [`pci::MsiRouter`], [`pci::NotifyRegistrar`], [`window_memory::SlotMapper`] and
//! [`vfio::Hardware`].
//! This crate never opens a path, never talks to KVM and knows nothing of policy.
//!
//! Locks are taken in one order and never the other way round: configuration of a function, then its device,
//! then interrupt state. The thread of an [`event_loop::EventLoop`] starts at the device, so that a slow disk
//! never blocks a vCPU that masks an interrupt.
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod bus;
pub mod event_loop;
pub mod pci;
pub mod scatter;
pub mod state;
pub mod virtio;

pub mod balloon;
pub mod blk;
pub mod console;
pub mod net;
pub mod rng;
pub mod serial;
pub mod snd;
pub mod vfio;
pub mod vsock;
pub mod window_memory;

mod config_space;
mod throttle;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod hostile;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever happened to another holder: a panic aborts the released program anyway, and in a test the
/// first panic is the one to read.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
