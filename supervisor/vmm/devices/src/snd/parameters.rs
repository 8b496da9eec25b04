//! What a guest chooses for a stream, checked once; and the streams, jacks and channel maps that it may choose from.

use casemate_sound_wire::{Channels, Format, Rate, Shape};

use super::message::Status;

/// Most bytes of a stream's buffer, and so of one I/O message: two thirds of a second of the densest shape.
pub const MAX_BUFFER: u32 = 256 * 1024;

/// Fewest frames of a period: the host is not to be woken more than 1500 times a second.
pub const MIN_PERIOD_FRAMES: u32 = 32;

/// Numbers of the virtio formats and rates that there are (virtio 1.2, 5.14.6.6.2).
const FORMATS: [(u8, Format); 3] = [(5, Format::S16), (17, Format::S32), (19, Format::F32)];
const RATES: [(u8, Rate); 2] = [(6, Rate::Hz44100), (7, Rate::Hz48000)];

/// Which way a stream goes; its number is that of its queue's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Stream 0, jack 0.
    Playback,
    /// Stream 1, jack 1.
    Capture,
}

impl Direction {
    /// In the order of their numbers.
    pub(super) const ALL: [Self; 2] = [Self::Playback, Self::Capture];

    /// VIRTIO_SND_D_OUTPUT or VIRTIO_SND_D_INPUT; also the number of stream, jack and channel map.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Playback => 0,
            Self::Capture => 1,
        }
    }
}

/// A stream's parameters, possible ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) shape: Shape,
    /// Bytes of the guest's buffer: whole periods.
    pub(super) buffer: u32,
    /// Bytes of a period: whole frames.
    pub(super) period: u32,
}

impl Parameters {
    /// Checks what a guest asks for; format and rate as virtio numbers them.
    pub(super) fn new(
        buffer: u32,
        period: u32,
        channels: u8,
        format: u8,
        rate: u8,
    ) -> Result<Self, Status> {
        let shape = Shape {
            format: named(&FORMATS, format)?,
            rate: named(&RATES, rate)?,
            channels: match channels {
                1 => Channels::Mono,
                2 => Channels::Stereo,
                _ => return Err(Status::NotSupported),
            },
        };
        let frame = shape.frame_bytes();
        let whole = period.is_multiple_of(frame) && buffer.checked_rem(period) == Some(0);
        if !whole || buffer == 0 {
            return Err(Status::BadMessage);
        }
        if buffer > MAX_BUFFER || period < frame.saturating_mul(MIN_PERIOD_FRAMES) {
            return Err(Status::NotSupported);
        }
        Ok(Self {
            shape,
            buffer,
            period,
        })
    }

    /// Channels, format and rate as virtio numbers them.
    pub(super) fn numbers(self) -> [u8; 3] {
        [
            self.shape.channels.count(),
            number(&FORMATS, &self.shape.format),
            number(&RATES, &self.shape.rate),
        ]
    }
}

fn named<T: Copy>(table: &[(u8, T)], number: u8) -> Result<T, Status> {
    let mut rows = table.iter();
    rows.find(|(row, _)| *row == number)
        .map(|(_, value)| *value)
        .ok_or(Status::NotSupported)
}

fn number<T: PartialEq>(table: &[(u8, T)], value: &T) -> u8 {
    let mut rows = table.iter();
    // Every value is in its table.
    rows.find(|(_, row)| row == value)
        .map_or(0, |(number, _)| *number)
}

/// Bits of the formats and of the rates that there are.
pub(super) fn masks() -> (u64, u64) {
    fn mask<T>(table: &[(u8, T)]) -> u64 {
        let bits = table.iter().map(|(number, _)| u32::from(*number));
        bits.fold(0, |mask, bit| mask | 1_u64.wrapping_shl(bit))
    }
    (mask(&FORMATS), mask(&RATES))
}
