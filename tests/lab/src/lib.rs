//! The lab: a Debian workstation (L1) inside QEMU whose processor emulates hardware virtualization,
//! so that Casemate and its VMs (L2) run on a machine that has none. A test starts a [`Lab`], runs
//! programs in it over a virtio port, types, points and takes pictures over QMP, and drops it.
//!
//! On a machine with KVM of its own, [`Lab::start_here`] runs the same programs without an emulator; then
//! keys, pointer and pictures are those of the compositor.
//!
//! Nothing of the product may depend on this crate. It trusts what runs inside the lab no further
//! than its own test: a lab that lies only fails the test that asked.
//!
//! ```text
//!  test ── Lab ─┬─ socket ── virtio port ── lab-guest (process 1 of L1) ── programs of the test
//!               ├─ QMP ───── keys, pointer, pictures
//!               └─ 9p ────── /lab (lab-guest itself), /payload (what the test brings, read-only)
//! ```

pub mod guest;
mod here;
pub mod image;
mod lab;
mod qemu;
pub mod qmp;
pub mod screen;
pub mod wire;

pub use guest::{Command, Output, Process, Said};
pub use here::Here;
pub use image::{Image, cache_dir};
pub use lab::{Lab, Options};
pub use qemu::{Accelerator, Access, Drive};
pub use screen::{Picture, Screen};
