//! The file copy stream of `qubes.Filecopy`: what is sent, how it is checked, where it may land.
//!
//! One direction carries entries, the other one [`Outcome`]. The receiver trusts nothing: every name is checked before
//! it is used, every directory is opened from the one above it without following links, a file appears under its name
//! only when it is whole.

mod header;
mod names;
mod receive;
mod safe;
mod send;

pub(crate) use header::{HEADER, Header, Kind, Outcome};
pub(crate) use receive::receive;
pub(crate) use send::send;
