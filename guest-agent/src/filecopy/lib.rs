//! The file copy stream of `qubes.Filecopy`: what is sent, how it is checked, where it may land.
//!
//! One direction carries entries, the other one [`Outcome`]. The receiver trusts nothing: every name is checked before
//! it is used, every directory is opened below the one that was given without following links, a file appears under its
//! name only when it is whole. A library of its own so that the fuzz target can drive it; it reads no environment and
//! starts no process.
#![deny(missing_docs)]

mod header;
mod land;
mod names;
mod pace;
mod receive;
mod refusal;
mod safe;
mod send;
mod sparse;

pub use header::Outcome;
pub use names::plain_name;
pub use pace::{Pace, amount, duration};
pub use receive::{Received, Rules, receive};
pub use send::{Choice, SendError, send, send_file, size_of, write_file};
