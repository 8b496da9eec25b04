//! What the device knows of the world outside: somebody who hears, or somebody who makes sounds.

use std::os::fd::BorrowedFd;

use casemate_sound_wire::Shape;
use vm_memory::GuestMemoryMmap;

use crate::scatter::View;

/// Nobody is there any more, or somebody who does not keep to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// What a host says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Of what was played in this run: so many bytes in all were taken for good. `latency` bytes of those are not audible yet.
    Heard {
        /// Which run.
        run: u32,
        /// Bytes since it began; what goes back or beyond what was sent is not believed.
        total: u64,
        /// Bytes.
        latency: u32,
    },
    /// Samples were recorded: so many bytes of the buffer.
    Recorded {
        /// Which run.
        run: u32,
        /// Bytes, whole frames or not.
        len: usize,
        /// Bytes.
        latency: u32,
    },
}

/// One direction of sound outside of the VM. Nothing here ever waits: who is slow is gone on without.
///
/// Sound goes in runs, one at a time, numbered by the device; news of another run than the current one is out of date.
pub trait Host: Send {
    /// Becomes readable when there is news.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// A run begins. False when that could not be said now.
    ///
    /// # Errors
    /// [`Gone`].
    fn begin(&mut self, run: u32, shape: Shape, period: u32) -> Result<bool, Gone>;

    /// The run is over; what was not heard is dropped. False when that could not be said now: the next begin says it too.
    ///
    /// # Errors
    /// [`Gone`].
    fn end(&mut self, run: u32) -> Result<bool, Gone>;

    /// Takes samples to play; returns how many bytes, whole frames if those given are. Zero when it has no room now.
    ///
    /// # Errors
    /// [`Gone`].
    fn play(
        &mut self,
        run: u32,
        memory: &GuestMemoryMmap,
        samples: View<'_>,
    ) -> Result<usize, Gone>;

    /// The next news; samples are put into the front of `into`.
    ///
    /// # Errors
    /// [`Gone`].
    fn next(
        &mut self,
        into: &mut [u8; casemate_sound_wire::MAX_FRAMES],
    ) -> Result<Option<News>, Gone>;
}
