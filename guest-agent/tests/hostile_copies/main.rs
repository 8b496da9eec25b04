//! Rows B11-1 to B11-7 of the threat tables through the real program: whatever a sender says or the receiving VM's own
//! user does meanwhile, nothing lands outside of the directory, and nothing half-made has a name. (B11-8 is about
//! compressed streams; there are none.)
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ends;
mod names;
mod place;
mod races;
mod sizes;
#[path = "../support/mod.rs"]
mod support;
