//! The sound server as a line sees it: small enough for a double.

use casemate_sound_wire::{Channels, Rate};

/// What a stream of the sound server carries, as floats of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sound {
    pub(crate) rate: Rate,
    pub(crate) channels: Channels,
}

/// A sound server that has one stream, or none.
pub(crate) trait Host {
    /// There is to be this stream, instead of the one before. It comes when the server is there; until then nobody hears
    /// or is heard.
    fn open(&mut self, sound: Sound);

    /// There is to be none.
    fn close(&mut self);
}
