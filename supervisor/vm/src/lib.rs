//! Words: what a VM is called, coloured, made of and doing.
//!
//! Every other crate speaks of VMs in these types. They are plain data behind `serde`; nothing here
//! reads a file, a clock or a socket, and nothing here can be constructed in a wrong state.
#![deny(missing_docs)]

mod class;
mod label;
mod machine;
mod name;
mod pci;
mod spec;
mod state;
mod tag;

pub use class::VmClass;
pub use label::{Label, UnknownLabel};
pub use machine::{InvalidMachine, RamSize, VcpuCount};
pub use name::{InvalidName, VmName};
pub use pci::{InvalidPciAddress, PciAddress};
pub use spec::{InvalidSpec, Mebibytes, VmKind, VmSpec};
pub use state::{VmId, VmState};
pub use tag::{InvalidTag, Tag};
