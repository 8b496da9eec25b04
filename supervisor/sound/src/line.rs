//! One VM's sound in one direction: what came over its socket, and how far it is. No I/O.

use std::collections::VecDeque;

use casemate_sound_wire::{MAX_AHEAD, MAX_FRAMES, Malformed, Shape, ToMixer, ToVmm};

use crate::{
    convert::{FLOAT, from_guest, to_guest},
    host::{Host, Sound},
};

/// Which way sound goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the VM.
    Play,
    /// To the VM.
    Record,
}

/// Why a VM loses its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("run {0} was there before")]
    OldRun(u32),
    #[error("{0} bytes are no whole frames")]
    HalfFrame(usize),
    #[error("samples to play on the line that records")]
    Direction,
}

/// The current run.
#[derive(Debug)]
struct Run {
    number: u32,
    shape: Shape,
    /// Bytes of samples not taken yet, at most [`MAX_AHEAD`]; whole frames.
    waiting: VecDeque<u8>,
    /// Bytes of samples taken.
    taken: u64,
}

/// A line. Runs come and go.
#[derive(Debug)]
pub(crate) struct Line {
    direction: Direction,
    run: Option<Run>,
    last: Option<u32>,
}

impl Line {
    pub(crate) fn new(direction: Direction) -> Self {
        Self {
            direction,
            run: None,
            last: None,
        }
    }

    /// Does what a packet says. True when the vmm is to be told at once how far it is.
    ///
    /// # Errors
    /// [`Wrong`], after which the line is not to be used.
    pub(crate) fn receive(&mut self, packet: &[u8], host: &mut dyn Host) -> Result<bool, Wrong> {
        match ToMixer::decode(packet)? {
            ToMixer::Begin { run, shape, .. } => {
                if self.last.is_some_and(|last| run <= last) {
                    return Err(Wrong::OldRun(run));
                }
                self.last = Some(run);
                self.run = Some(Run {
                    number: run,
                    shape,
                    waiting: VecDeque::new(),
                    taken: 0,
                });
                host.open(Sound {
                    rate: shape.rate,
                    channels: shape.channels,
                });
                Ok(self.direction == Direction::Play)
            }
            ToMixer::Frames { .. } if self.direction == Direction::Record => Err(Wrong::Direction),
            ToMixer::Frames { run, samples } => {
                if let Some(current) = self.run.as_mut().filter(|it| it.number == run) {
                    current.add(samples)?;
                }
                Ok(false)
            }
            ToMixer::End { run } => {
                if self.run.as_ref().is_some_and(|it| it.number == run) {
                    self.run = None;
                    host.close();
                }
                Ok(false)
            }
        }
    }

    /// Fills `into` with floats to be played, silence where there is nothing. True when some are the VM's.
    pub(crate) fn draw(&mut self, into: &mut [u8]) -> bool {
        let mut floats = into.chunks_exact_mut(FLOAT);
        let mut any = false;
        if let Some(run) = &mut self.run {
            // Whole frames wait and a frame is asked for whole, so none is cut in two.
            while !run.waiting.is_empty() {
                let Some(place) = floats.next() else { break };
                let sample = run.next();
                place.copy_from_slice(&sample.to_le_bytes());
                any = true;
            }
        }
        for place in floats {
            place.fill(0);
        }
        any
    }

    /// How far the run is, for the vmm. `delay` is seconds between being drawn and being audible.
    pub(crate) fn heard(&self, delay: f64) -> Option<Vec<u8>> {
        let run = self.run.as_ref()?;
        let mut packet = Vec::new();
        ToVmm::Heard {
            run: run.number,
            total: run.taken,
            latency: latency(run.shape, delay),
        }
        .encode(&mut packet);
        Some(packet)
    }

    /// Packets with what was recorded: floats, interleaved. `delay` is seconds from being audible to being here.
    pub(crate) fn recorded(&self, floats: &[u8], delay: f64) -> Vec<Vec<u8>> {
        let Some(run) = &self.run else {
            return Vec::new();
        };
        let mut samples = Vec::new();
        let (floats, _) = floats.as_chunks::<FLOAT>();
        for float in floats {
            to_guest(run.shape.format, f32::from_le_bytes(*float), &mut samples);
        }
        let latency = latency(run.shape, delay);
        let run = run.number;
        // A multiple of every frame's length.
        let pieces = samples.chunks(MAX_FRAMES);
        pieces
            .map(|samples| {
                let mut packet = Vec::new();
                ToVmm::Frames {
                    run,
                    latency,
                    samples,
                }
                .encode(&mut packet);
                packet
            })
            .collect()
    }
}

impl Run {
    /// Takes samples in. When more wait than may, the oldest are lost and count as taken.
    fn add(&mut self, samples: &[u8]) -> Result<(), Wrong> {
        let frame = usize::try_from(self.shape.frame_bytes()).unwrap_or(usize::MAX);
        if !samples.len().is_multiple_of(frame) {
            return Err(Wrong::HalfFrame(samples.len()));
        }
        let most = usize::try_from(MAX_AHEAD).unwrap_or(usize::MAX);
        let after = self.waiting.len().saturating_add(samples.len());
        let lost = after.saturating_sub(most).min(self.waiting.len());
        self.waiting.drain(..lost);
        self.count(lost);
        self.waiting.extend(samples);
        Ok(())
    }

    /// The next sample.
    fn next(&mut self) -> f32 {
        let format = self.shape.format;
        let len = usize::try_from(format.bytes()).unwrap_or(FLOAT);
        let mut bytes = [0; 4];
        for (place, byte) in bytes.iter_mut().zip(self.waiting.drain(..len)) {
            *place = byte;
        }
        self.count(len);
        from_guest(format, bytes)
    }

    fn count(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.taken = self.taken.saturating_add(bytes);
    }
}

/// Bytes of samples in this many seconds; a server may say anything.
fn latency(shape: Shape, seconds: f64) -> u32 {
    /// Longest delay that is told, in seconds.
    const LONGEST: f64 = 5.0;
    let seconds = if seconds.is_finite() {
        seconds.clamp(0.0, LONGEST)
    } else {
        0.0
    };
    let frames = seconds * f64::from(shape.rate.hertz());
    // Neither negative nor large after the clamp.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let frames = frames as u32;
    frames.saturating_mul(shape.frame_bytes())
}

#[cfg(test)]
mod tests;
