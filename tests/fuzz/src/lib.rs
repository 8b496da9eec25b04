//! What the fuzz targets share: properties of wires, a queue and a driver with arbitrary queues, a machine with
//! arbitrary accesses.
//!
//! A target asks for more than that nothing panics: what was decoded can be sent again, pieces make no difference, a
//! device comes to rest and lets go of memory at reset. What is checked here is written beside each check.
//! No target needs KVM, root, a clock or another process; only that of file copies writes files, below `/dev/shm`.
#![deny(missing_docs)]

pub mod doubles;
pub mod driver;
pub mod filecopy;
pub mod input;
pub mod kernel;
pub mod machine;
pub mod policy;
pub mod queue;
pub mod session;
pub mod snapshot;
pub mod working_set;
pub mod vectors;
pub mod wires;
