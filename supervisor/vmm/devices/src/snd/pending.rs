//! I/O messages of the guest that wait for their samples to be heard, or to be filled.

use vm_memory::GuestMemoryMmap;

use super::message::{STATUS_LEN, Status};
use super::parameters::{Direction, Parameters};
use crate::scatter::{Buffers, Kept, View};
use crate::virtio::{ActiveQueue, Memory, QueueError};

/// Bytes of the stream's number in front of a message.
const HEADER_LEN: usize = 4;

/// One that waits. It holds its chain's head until it is given back.
#[derive(Debug)]
pub(super) struct Message {
    head: u16,
    data: Kept,
    status: Kept,
}

/// The parts of a chain that can be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    header: View<'a>,
    data: View<'a>,
    status: View<'a>,
}

impl<'a> Parts<'a> {
    /// Where the parts of a chain are; nothing when there is no room for a status.
    pub(super) fn of(direction: Direction, buffers: &'a Buffers) -> Option<Self> {
        let (readable, writable) = (buffers.readable(), buffers.writable());
        let before_status = writable.len().checked_sub(STATUS_LEN)?;
        let (header, samples) = readable.split_at(HEADER_LEN);
        Some(match direction {
            Direction::Playback => Self {
                header,
                data: samples,
                status: writable.split_at(STATUS_LEN).0,
            },
            Direction::Capture => Self {
                header,
                data: writable.split_at(before_status).0,
                status: writable.after(before_status),
            },
        })
    }

    /// Whether this is a message for a stream with such parameters: whole frames, at least one and at most its buffer.
    pub(super) fn is_for(
        self,
        direction: Direction,
        parameters: Parameters,
        memory: &GuestMemoryMmap,
    ) -> bool {
        let stream = self.header.read_array(memory).map(u32::from_le_bytes);
        let len = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        stream == Some(direction.number().into())
            && (1..=parameters.buffer).contains(&len)
            && len.is_multiple_of(parameters.shape.frame_bytes())
    }

    /// Keeps it.
    pub(super) fn keep(self, head: u16) -> Message {
        Message {
            head,
            data: self.data.keep(),
            status: self.status.keep(),
        }
    }

    /// Refuses it at once.
    pub(super) fn refuse(
        self,
        head: u16,
        queue: &mut ActiveQueue,
        memory: &Memory,
    ) -> Result<(), QueueError> {
        let written = self.status.write(memory, &Status::IoError.with_latency(0));
        queue.complete(memory, head, u32::try_from(written).unwrap_or(0))
    }
}

impl Message {
    /// Where its samples are or come to.
    pub(super) fn data(&self) -> View<'_> {
        self.data.view()
    }

    /// Bytes of its samples: at most [`super::MAX_BUFFER`].
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.data.view().len()).unwrap_or(u64::MAX)
    }

    /// Gives it back with `recorded` bytes of samples in it.
    pub(super) fn complete(
        self,
        recorded: u32,
        status: Status,
        latency: u32,
        queue: &mut ActiveQueue,
        memory: &Memory,
    ) -> Result<(), QueueError> {
        let bytes = status.with_latency(latency);
        let written = self.status.view().write(memory, &bytes);
        let written = u32::try_from(written).unwrap_or(0);
        queue.complete(memory, self.head, recorded.saturating_add(written))
    }
}
