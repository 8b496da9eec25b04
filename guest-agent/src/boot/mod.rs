//! What must be done once before a VM is of use: its name, its private volume, its window memory.
//!
//! Each is a subcommand, run by a systemd unit, and does nothing when it has been done already.

pub(crate) mod identity;
pub(crate) mod private;
pub(crate) mod window_memory;
