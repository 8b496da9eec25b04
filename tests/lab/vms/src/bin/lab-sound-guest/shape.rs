//! What samples look like, in the kernel's numbers.

/// Of the kernel's `SNDRV_PCM_FORMAT_`.
const S16_LE: usize = 2;
const S32_LE: usize = 10;
const FLOAT_LE: usize = 14;

#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) format: usize,
    /// Frames a second.
    pub(super) rate: u32,
    pub(super) channels: u32,
}

/// What is recorded.
pub(super) const RECORDED: Shape = Shape {
    format: S16_LE,
    rate: 48_000,
    channels: 2,
};

/// What is played, one after the other.
pub(super) const PLAYED: [Shape; 3] = [
    RECORDED,
    Shape {
        format: FLOAT_LE,
        rate: 44_100,
        channels: 1,
    },
    Shape {
        format: S32_LE,
        rate: 48_000,
        channels: 2,
    },
];

impl Shape {
    pub(super) fn frame_bytes(self) -> usize {
        let sample = if self.format == S16_LE { 2 } else { 4 };
        if self.channels == 2 {
            2 * sample
        } else {
            sample
        }
    }
}
