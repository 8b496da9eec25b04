//! Frames over a byte stream, each after its length.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use vm_memory::GuestMemoryMmap;

use super::frame::{MAX_FRAME, MIN_FRAME};
use super::offload::HEADER;
use super::wire::{ROOM, Received, Sent};
use crate::scatter::{View, io as guest_io};

/// Bytes of the length in front of a frame.
const LENGTH: usize = 4;

/// Read at once: many frames of the usual size, or one of the longest.
const INBOX: usize = 2 * (LENGTH + MAX_FRAME);

/// Bytes that are gathered before they are sent, so that many small frames cost one system call and wake the other end once.
/// With the one frame that goes beyond it, all that a guest can make us hold for an other end that does not read.
const OUTBOX: usize = 64 << 10;

/// Frames up to this length are gathered; a longer one is sent from where it lies, without a copy.
const SMALL: usize = 4096;

/// One connection. Holds less than [`OUTBOX`] bytes and a frame towards the other end, and [`INBOX`] bytes from it.
pub(super) struct FrameStream {
    socket: OwnedFd,
    /// Frames that wait for [`FrameStream::flush`], the first of which may have been taken in part.
    outbox: Vec<u8>,
    /// Bytes of the outbox that have been sent.
    sent: usize,
    inbox: Box<[u8]>,
    start: usize,
    end: usize,
    gone: bool,
}

impl FrameStream {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            outbox: Vec::new(),
            sent: 0,
            inbox: vec![0; INBOX].into_boxed_slice(),
            start: 0,
            end: 0,
            gone: false,
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes a frame, which may wait for [`FrameStream::flush`].
    pub(super) fn send(&mut self, head: &[u8], memory: &GuestMemoryMmap, rest: View<'_>) -> Sent {
        let len = head.len().saturating_add(rest.len());
        let length = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        let is_small = len <= SMALL;
        // Not half a frame into a full socket, nor a long one past what waits.
        let must_flush = !is_small || self.outbox.len() >= OUTBOX;
        if must_flush && !self.flush() {
            return Sent::Later;
        }
        if self.gone {
            return Sent::Gone;
        }
        if is_small {
            self.keep(0, &length, head, memory, rest);
            return Sent::Yes;
        }
        match guest_io::send_after(&self.socket, [&length, head], memory, rest) {
            Ok(taken) => {
                self.keep(taken, &length, head, memory, rest);
                Sent::Yes
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Sent::Later,
            Err(_) => Sent::Gone,
        }
    }

    /// Keeps what of a frame has not been taken: half a frame would spoil all that follow.
    fn keep(
        &mut self,
        taken: usize,
        length: &[u8],
        head: &[u8],
        memory: &GuestMemoryMmap,
        rest: View<'_>,
    ) {
        let mut skip = taken;
        for part in [length, head] {
            let left = part.get(skip..).unwrap_or_default();
            self.outbox.extend_from_slice(left);
            skip = skip.saturating_sub(part.len());
        }
        let rest = rest.after(skip);
        let from = self.outbox.len();
        self.outbox.resize(from.saturating_add(rest.len()), 0);
        if let Some(place) = self.outbox.get_mut(from..) {
            rest.read(memory, place);
        }
    }

    /// Sends what waits; true when nothing does any more.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(waiting) = self.outbox.get(self.sent..)
            && !waiting.is_empty()
        {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, waiting, flags) {
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_gone) => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.outbox.clear();
        self.sent = 0;
        true
    }

    pub(super) fn receive(&mut self, into: &mut [u8; ROOM]) -> Received {
        loop {
            match self.next(into) {
                Next::Frame(len) => return Received::Packet(len),
                Next::Nonsense => return Received::Gone,
                Next::Incomplete => {}
            }
            self.inbox.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
            let room = self.inbox.get_mut(self.end..).unwrap_or_default();
            match rustix::net::recv(&self.socket, room, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Received::Gone,
                Ok((count, _)) => self.end = self.end.saturating_add(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Err(_gone) => return Received::Gone,
            }
        }
    }

    /// The next frame that is wholly here, after an empty header.
    fn next(&mut self, into: &mut [u8; ROOM]) -> Next {
        let held = self.inbox.get(self.start..self.end).unwrap_or_default();
        let Some((length, rest)) = held.split_first_chunk::<LENGTH>() else {
            return Next::Incomplete;
        };
        let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        // After one wrong length no later one can be found.
        if !(MIN_FRAME..=MAX_FRAME).contains(&len) {
            return Next::Nonsense;
        }
        let Some(frame) = rest.get(..len) else {
            return Next::Incomplete;
        };
        let (header, room) = into.split_at_mut(HEADER);
        header.fill(0);
        if let Some(place) = room.get_mut(..len) {
            place.copy_from_slice(frame);
        }
        self.start = self.start.saturating_add(LENGTH).saturating_add(len);
        Next::Frame(HEADER.saturating_add(len))
    }
}

enum Next {
    Frame(usize),
    Incomplete,
    Nonsense,
}
