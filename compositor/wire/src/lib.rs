//! Wire between `casemate-windows` (in a VM) and the compositor: messages, limits, codec; no I/O.
//!
//! A byte stream (vsock port 769). Each frame is `type: u16, zero: u16, len: u32` (little endian), then `len` bytes.
//! The guest speaks first, with [`ToHost::Hello`]; the host answers [`ToGuest::Welcome`], [`ToGuest::Output`] and
//! [`ToGuest::Keymap`]. Messages of the guest carry full state, not deltas, so that either side may restart and
//! the guest sends everything again.
//!
//! Pixels never travel here: the host grants slots in the VM's window memory, the guest draws into a slot and names
//! it in [`ToHost::Commit`]. The guest names no addresses, colours, positions on screen, stacking or focus: there is
//! no field for them.
//!
//! Numbers are little endian and follow each other without padding; a text is a `u16` length and UTF-8 bytes; a list
//! is a `u8` count and its items; a truth value is one byte, 0 or 1. A body has exactly the length of its fields.
//! Both directions have their own message numbers, so that an echoed frame is an unknown one.
//!
//! Any malformed, illegal or out-of-state message ends the VM's window session, not the VM.
#![deny(missing_docs)]

mod bytes;
mod frame;
pub mod limits;
mod message;
mod to_guest;
mod to_host;

pub use frame::{Decoder, Header, Malformed, Message};
pub use message::{
    Anchor, Commit, Configure, CursorShape, DamageRect, Format, Gravity, OutputInfo, Position,
    Request, SlotGrant, ToGuest, ToHost, Window, WindowId, WindowKind,
};
