//! What a snapshot keeps: where streams are in their lives, and what the guest knows of its microphone. Not who hears or
//! is heard, which is decided anew for each VM; and no samples, because messages are given back before.

use super::parameters::{Direction, Parameters};
use super::stream::Stream;
use crate::state::StateError;

/// Version, directions, and whether the guest thinks that a microphone is plugged in.
const HEADER: usize = 3;
/// Phase; channels, format and rate as virtio numbers them; bytes of buffer and period.
const STREAM: usize = 12;
const VERSION: u8 = 1;

const UNFIT: StateError = StateError::Unfit("the sound's own state");

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    /// Whether there is a stream to record.
    pub(super) can_record: bool,
    pub(super) told: bool,
    /// By number; the second is [`Stream::Unset`] when there is none.
    pub(super) streams: [Stream; 2],
}

impl Saved {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::from(self.can_record), u8::from(self.told)];
        for (_, stream) in Direction::ALL.iter().zip(self.streams) {
            let (phase, parameters) = match stream {
                Stream::Unset => (0, None),
                Stream::Set(parameters) => (1, Some(parameters)),
                Stream::Prepared(parameters) => (2, Some(parameters)),
                Stream::Running(parameters) => (3, Some(parameters)),
                Stream::Stopped(parameters) => (4, Some(parameters)),
                Stream::Released(parameters) => (5, Some(parameters)),
            };
            bytes.push(phase);
            let (numbers, buffer, period) = parameters.map_or(([0; 3], 0, 0), |chosen| {
                (chosen.numbers(), chosen.buffer, chosen.period)
            });
            bytes.extend(numbers);
            bytes.extend(buffer.to_le_bytes());
            bytes.extend(period.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let (header, streams) = bytes.split_first_chunk::<HEADER>().ok_or(UNFIT)?;
        let [VERSION, can_record, told] = *header else {
            return Err(UNFIT);
        };
        let ([first, second], []) = streams.as_chunks::<STREAM>() else {
            return Err(UNFIT);
        };
        let saved = Self {
            can_record: truth(can_record)?,
            told: truth(told)?,
            streams: [stream(*first)?, stream(*second)?],
        };
        let [_, second] = saved.streams;
        if !saved.can_record && (saved.told || second != Stream::Unset) {
            return Err(UNFIT);
        }
        Ok(saved)
    }
}

fn truth(byte: u8) -> Result<bool, StateError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(UNFIT),
    }
}

fn stream(bytes: [u8; STREAM]) -> Result<Stream, StateError> {
    let [phase, channels, format, rate, b0, b1, b2, b3, period @ ..] = bytes;
    if phase == 0 {
        let empty = bytes == [0; STREAM];
        return if empty { Ok(Stream::Unset) } else { Err(UNFIT) };
    }
    let buffer = u32::from_le_bytes([b0, b1, b2, b3]);
    let period = u32::from_le_bytes(period);
    // The checks of a guest's own request.
    let parameters = Parameters::new(buffer, period, channels, format, rate).map_err(|_| UNFIT)?;
    match phase {
        1 => Ok(Stream::Set(parameters)),
        2 => Ok(Stream::Prepared(parameters)),
        3 => Ok(Stream::Running(parameters)),
        4 => Ok(Stream::Stopped(parameters)),
        5 => Ok(Stream::Released(parameters)),
        _ => Err(UNFIT),
    }
}
