//! The commands that a person or a script in the VM types, with the reference's names and arguments.

pub(crate) mod client;
pub(crate) mod open;
pub(crate) mod pdf;
pub(crate) mod qvm;
