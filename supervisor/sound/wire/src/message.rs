//! Messages and their bytes.

use crate::{FRAMES_HEADER, MAX_FRAMES, MAX_PACKET, Shape};

const BEGIN: u32 = 1;
const END: u32 = 2;
const FRAMES: u32 = 3;
const HEARD: u32 = 4;

/// What a vmm says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToMixer<'a> {
    /// A run begins; one that has not ended ends. 16 bytes: 1, run, format, rate, channels, a zero, period.
    Begin {
        /// Its number, greater than the last one on this socket.
        run: u32,
        /// What its samples look like.
        shape: Shape,
        /// Bytes of samples that the guest deals with at a time: whole frames, more than none. A hint for buffers.
        period: u32,
    },
    /// Samples to be played. 16 bytes: 3, run, two zeroes; then the samples.
    Frames {
        /// Of which run.
        run: u32,
        /// Whole frames, at most [`MAX_FRAMES`] bytes.
        samples: &'a [u8],
    },
    /// The run is over; what was not heard of it is not to be. 16 bytes: 2, run, two zeroes.
    End {
        /// Its number.
        run: u32,
    },
}

/// What the mixer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToVmm<'a> {
    /// How far the mixer is. 24 bytes: 4, run, total (8 bytes), latency, a zero.
    Heard {
        /// Of which run.
        run: u32,
        /// Bytes of its samples that were taken for good, since it began. Never goes back.
        total: u64,
        /// Bytes of samples between being taken and being audible.
        latency: u32,
    },
    /// Samples that were recorded. 16 bytes: 3, run, latency, a zero; then the samples.
    Frames {
        /// Of which run.
        run: u32,
        /// Bytes of samples between being audible and being sent.
        latency: u32,
        /// Whole frames, at most [`MAX_FRAMES`] bytes.
        samples: &'a [u8],
    },
}

/// A packet that is not of this wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short for its kind, or too long.
    #[error("a packet of {0} bytes")]
    Length(usize),
    /// No message of this direction.
    #[error("unknown message {0}")]
    Kind(u32),
    /// A shape that does not exist, a period of nothing, or something where a zero belongs.
    #[error("a field has a value that it cannot have")]
    Field,
}

impl<'a> ToMixer<'a> {
    /// Appends the message.
    pub fn encode(self, into: &mut Vec<u8>) {
        match self {
            Self::Begin { run, shape, period } => {
                let [format, rate, channels] = shape.encode();
                words(into, [BEGIN, run]);
                into.extend([format, rate, channels, 0]);
                words(into, [period]);
            }
            Self::Frames { run, samples } => {
                into.extend(Self::frames_header(run));
                into.extend(samples);
            }
            Self::End { run } => words(into, [END, run, 0, 0]),
        }
    }

    /// What stands before the samples of [`ToMixer::Frames`], for who sends them from somewhere else.
    pub fn frames_header(run: u32) -> [u8; FRAMES_HEADER] {
        let mut bytes = [0; FRAMES_HEADER];
        bytes[..4].copy_from_slice(&FRAMES.to_le_bytes());
        bytes[4..8].copy_from_slice(&run.to_le_bytes());
        bytes
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Malformed`]. Whether samples are whole frames depends on the run, so it is not known here.
    pub fn decode(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, run, rest) = head(packet)?;
        let Some((fields, samples)) = rest.split_first_chunk::<8>() else {
            return Err(Malformed::Length(packet.len()));
        };
        match kind {
            BEGIN if samples.is_empty() => {
                let [format, rate, channels, zero, period @ ..] = *fields;
                let period = u32::from_le_bytes(period);
                let shape = Shape::decode([format, rate, channels]).ok_or(Malformed::Field)?;
                let whole = period > 0 && period.is_multiple_of(shape.frame_bytes());
                if zero != 0 || !whole {
                    return Err(Malformed::Field);
                }
                Ok(Self::Begin { run, shape, period })
            }
            END if samples.is_empty() => {
                zero(*fields)?;
                Ok(Self::End { run })
            }
            FRAMES if (1..=MAX_FRAMES).contains(&samples.len()) => {
                zero(*fields)?;
                Ok(Self::Frames { run, samples })
            }
            BEGIN | END | FRAMES => Err(Malformed::Length(packet.len())),
            other => Err(Malformed::Kind(other)),
        }
    }
}

impl<'a> ToVmm<'a> {
    /// Appends the message.
    pub fn encode(self, into: &mut Vec<u8>) {
        match self {
            Self::Heard {
                run,
                total,
                latency,
            } => {
                words(into, [HEARD, run]);
                into.extend(total.to_le_bytes());
                words(into, [latency, 0]);
            }
            Self::Frames {
                run,
                latency,
                samples,
            } => {
                words(into, [FRAMES, run, latency, 0]);
                into.extend(samples);
            }
        }
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Malformed`]. Whether samples are whole frames depends on the run, so it is not known here.
    pub fn decode(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, run, rest) = head(packet)?;
        match kind {
            HEARD => {
                let Ok(fields) = <&[u8; 16]>::try_from(rest) else {
                    return Err(Malformed::Length(packet.len()));
                };
                let [a, b, c, d, e, f, g, h, l0, l1, l2, l3, 0, 0, 0, 0] = *fields else {
                    return Err(Malformed::Field);
                };
                Ok(Self::Heard {
                    run,
                    total: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                    latency: u32::from_le_bytes([l0, l1, l2, l3]),
                })
            }
            FRAMES => match rest.split_first_chunk::<8>() {
                Some((fields, samples)) if (1..=MAX_FRAMES).contains(&samples.len()) => {
                    let [l0, l1, l2, l3, 0, 0, 0, 0] = *fields else {
                        return Err(Malformed::Field);
                    };
                    Ok(Self::Frames {
                        run,
                        latency: u32::from_le_bytes([l0, l1, l2, l3]),
                        samples,
                    })
                }
                _ => Err(Malformed::Length(packet.len())),
            },
            other => Err(Malformed::Kind(other)),
        }
    }
}

/// Kind, run, and what follows.
fn head(packet: &[u8]) -> Result<(u32, u32, &[u8]), Malformed> {
    let wrong = Malformed::Length(packet.len());
    if packet.len() > MAX_PACKET {
        return Err(wrong);
    }
    let (kind, rest) = packet.split_first_chunk().ok_or(wrong)?;
    let (run, rest) = rest.split_first_chunk().ok_or(wrong)?;
    Ok((u32::from_le_bytes(*kind), u32::from_le_bytes(*run), rest))
}

fn zero(fields: [u8; 8]) -> Result<(), Malformed> {
    if fields == [0; 8] {
        Ok(())
    } else {
        Err(Malformed::Field)
    }
}

fn words<const N: usize>(into: &mut Vec<u8>, words: [u32; N]) {
    for word in words {
        into.extend(word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(message: ToMixer<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    fn vmm_bytes_of(message: ToVmm<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    #[test]
    fn every_message_comes_back() {
        let samples = [1, 2, 3, 4];
        for shape in Shape::all() {
            let period = shape.frame_bytes() * 480;
            let begin = ToMixer::Begin {
                run: 7,
                shape,
                period,
            };
            assert_eq!(ToMixer::decode(&bytes_of(begin)), Ok(begin));
        }
        for message in [
            ToMixer::Frames {
                run: u32::MAX,
                samples: &samples,
            },
            ToMixer::End { run: 1 },
        ] {
            assert_eq!(ToMixer::decode(&bytes_of(message)), Ok(message));
        }
        for message in [
            ToVmm::Heard {
                run: 3,
                total: u64::MAX,
                latency: 9,
            },
            ToVmm::Frames {
                run: 3,
                latency: 9,
                samples: &samples,
            },
        ] {
            assert_eq!(ToVmm::decode(&vmm_bytes_of(message)), Ok(message));
        }
    }

    #[test]
    fn bytes_are_those_of_the_documents() {
        let shape = Shape::decode([3, 2, 2]).expect("floats, 48 kHz, stereo");
        assert_eq!(
            bytes_of(ToMixer::Begin {
                run: 5,
                shape,
                period: 3840
            }),
            [1, 0, 0, 0, 5, 0, 0, 0, 3, 2, 2, 0, 0, 15, 0, 0]
        );
        assert_eq!(
            vmm_bytes_of(ToVmm::Heard {
                run: 5,
                total: 256,
                latency: 2
            }),
            [
                4, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn limits_hold_at_their_edges() {
        for (len, good) in [
            (0, false),
            (1, true),
            (MAX_FRAMES, true),
            (MAX_FRAMES + 1, false),
        ] {
            let samples = vec![0; len];
            let to_mixer = bytes_of(ToMixer::Frames {
                run: 1,
                samples: &samples,
            });
            assert_eq!(ToMixer::decode(&to_mixer).is_ok(), good, "{len}");
            let to_vmm = vmm_bytes_of(ToVmm::Frames {
                run: 1,
                latency: 0,
                samples: &samples,
            });
            assert_eq!(ToVmm::decode(&to_vmm).is_ok(), good, "{len}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let shape = Shape::decode([1, 1, 2]).expect("a shape");
        let begin = bytes_of(ToMixer::Begin {
            run: 1,
            shape,
            period: 4,
        });
        let with = |at: usize, value: u8| {
            let mut bytes = begin.clone();
            bytes[at] = value;
            ToMixer::decode(&bytes).map(|_| ())
        };
        assert_eq!(with(0, 1), Ok(()));
        assert_eq!(
            with(0, 4),
            Err(Malformed::Kind(4)),
            "a message of the mixer"
        );
        for (at, value) in [(8, 0), (8, 4), (9, 0), (9, 3), (10, 0), (10, 3), (11, 1)] {
            assert_eq!(with(at, value), Err(Malformed::Field), "{at} {value}");
        }
        assert_eq!(with(12, 0), Err(Malformed::Field), "no period");
        assert_eq!(with(12, 6), Err(Malformed::Field), "one frame and a half");
        for len in 0..begin.len() {
            assert_eq!(ToMixer::decode(&begin[..len]), Err(Malformed::Length(len)));
        }
        let longer = [begin.as_slice(), &[0]].concat();
        assert_eq!(ToMixer::decode(&longer), Err(Malformed::Length(17)));
        assert_eq!(ToVmm::decode(&begin), Err(Malformed::Kind(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_come_back(
            kind in 0_u32..6,
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let packet = [kind.to_le_bytes().as_slice(), &rest].concat();
            if let Ok(message) = ToMixer::decode(&packet) {
                prop_assert_eq!(bytes_of(message), packet.clone());
            }
            if let Ok(message) = ToVmm::decode(&packet) {
                prop_assert_eq!(vmm_bytes_of(message), packet);
            }
        }
    }
}
