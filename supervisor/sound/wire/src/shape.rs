//! What samples look like. The few shapes that there are: every mixer has to understand all of them.

/// Encodings of one sample, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 16 bits, signed.
    S16,
    /// 32 bits, signed.
    S32,
    /// 32 bits, floating point, from -1 to 1.
    F32,
}

/// Frames per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rate {
    /// 44,100.
    Hz44100,
    /// 48,000.
    Hz48000,
}

/// Samples in a frame, interleaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channels {
    /// One.
    Mono,
    /// Left, then right.
    Stereo,
}

/// What the samples of a run look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Of one sample.
    pub format: Format,
    /// Of frames.
    pub rate: Rate,
    /// Of one frame.
    pub channels: Channels,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::S16, Self::S32, Self::F32];

    /// Bytes of one sample. Silence is zeroes in each.
    pub fn bytes(self) -> u32 {
        match self {
            Self::S16 => 2,
            Self::S32 | Self::F32 => 4,
        }
    }
}

impl Rate {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Hz44100, Self::Hz48000];

    /// Frames per second.
    pub fn hertz(self) -> u32 {
        match self {
            Self::Hz44100 => 44_100,
            Self::Hz48000 => 48_000,
        }
    }
}

impl Channels {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Mono, Self::Stereo];

    /// How many.
    pub fn count(self) -> u8 {
        match self {
            Self::Mono => 1,
            Self::Stereo => 2,
        }
    }
}

impl Shape {
    /// Bytes of one frame: 2, 4 or 8.
    pub fn frame_bytes(self) -> u32 {
        self.format.bytes() * u32::from(self.channels.count())
    }

    /// Bytes of one second: at most 384,000.
    pub fn bytes_per_second(self) -> u32 {
        self.frame_bytes() * self.rate.hertz()
    }

    /// Every shape.
    pub fn all() -> impl Iterator<Item = Self> {
        Format::ALL.into_iter().flat_map(|format| {
            Rate::ALL.into_iter().flat_map(move |rate| {
                Channels::ALL.into_iter().map(move |channels| Self {
                    format,
                    rate,
                    channels,
                })
            })
        })
    }

    /// Three bytes: format 1 to 3, rate 1 or 2, number of channels.
    pub(crate) fn encode(self) -> [u8; 3] {
        let format = match self.format {
            Format::S16 => 1,
            Format::S32 => 2,
            Format::F32 => 3,
        };
        let rate = match self.rate {
            Rate::Hz44100 => 1,
            Rate::Hz48000 => 2,
        };
        [format, rate, self.channels.count()]
    }

    pub(crate) fn decode(bytes: [u8; 3]) -> Option<Self> {
        Self::all().find(|shape| shape.encode() == bytes)
    }
}
