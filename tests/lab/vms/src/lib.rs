//! VMs in the lab, without the rest of the house: a monitor is started as the supervisor starts ours, or as a person
//! starts another one, and watched from outside. `lab-vms` measures (`cargo xtask bench vmm`); `lab-vms-guest` is the
//! only program of those VMs.
//!
//! The lab counts instructions (`Accelerator::Counting`): there a nanosecond is an instruction, so a time of
//! [`std::time::Instant`] is what the machine did, whatever else this one was busy with.
//!
//! Test bench, not product: it trusts what it starts.

pub mod bench;
pub mod console;
mod exec;
pub mod guest;
pub mod memory;
pub mod other;
pub mod ours;
pub mod place;
pub mod plan;
mod profile;
pub mod sink;
pub mod snapshot;
pub mod soak;
mod trace;
