//! virtio-snd (virtio 1.2, 5.14): a card with one stream to play and, where the VM may ever record, one to record.
//!
//! ```text
//!  guest tx queue -> straight from guest memory -> Host (the mixer's socket) -> "so much was heard" -> completed
//!  guest rx queue <- silence, or a Host that came with a grant <- completed when full
//! ```
//!
//! [`Sound`] is the device, [`Host`] all it knows of the world: one object per direction, whose only implementation
//! outside of tests is [`Mixer`], a socket to another process. No sound server is reached from here. The host decides
//! when samples were heard (`pace.rs`); when it is slow, silent or gone the device goes on by its own clock, so that the
//! guest neither hangs nor spins. A grant to record *is* the descriptor that samples come from: there is nothing
//! to record with before [`SoundHandle::grant`] and after [`SoundHandle::revoke`], and the guest then gets silence.
//! It sees which by the jack of its microphone.

mod control;
mod device;
mod flow;
mod handle;
mod host;
mod line;
mod message;
mod mixer;
mod pace;
mod parameters;
mod pending;
mod round;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use device::Sound;
pub use handle::SoundHandle;
pub use host::{Gone, Host, News};
pub use mixer::Mixer;
pub use parameters::{MAX_BUFFER, MIN_PERIOD_FRAMES};
