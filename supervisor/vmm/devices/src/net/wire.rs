//! What is at the other end of a network device.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use vm_memory::GuestMemoryMmap;

use super::frame::MAX_FRAME;
use super::offload::HEADER;
use super::stream::FrameStream;
use crate::scatter::{View, io as guest_io};

/// Room for one header and the longest frame, and a byte that shows when something was longer.
pub(super) const ROOM: usize = HEADER + MAX_FRAME + 1;

/// Where frames go to and come from.
pub struct Wire(Kind);

enum Kind {
    Cable(OwnedFd),
    Stream(FrameStream),
    Tap(OwnedFd),
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            Kind::Cable(_) => "Cable",
            Kind::Stream(_) => "Stream",
            Kind::Tap(_) => "Tap",
        })
    }
}

/// What became of a frame that was to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way.
    Yes,
    /// There is no room now; nothing of it was taken.
    Later,
    /// Nobody is there.
    Gone,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes, header included; may be too many or too few.
    Packet(usize),
    /// Nothing now.
    Nothing,
    /// Nobody is there any more.
    Gone,
}

impl Wire {
    /// One end of a cable between two VMs: a connected `SOCK_SEQPACKET` socket. A packet is a header and a frame.
    pub fn cable(socket: OwnedFd) -> Self {
        Self(Kind::Cable(socket))
    }

    /// The stream of a user-mode network, connected: a frame after its length, four bytes in network order; no offloads.
    pub fn stream(socket: OwnedFd) -> Self {
        Self(Kind::Stream(FrameStream::new(socket)))
    }

    /// A tap device with headers of 12 bytes. It is made non-blocking.
    ///
    /// # Errors
    /// The kernel's.
    pub fn tap(device: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&device)?;
        rustix::fs::fcntl_setfl(&device, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(Kind::Tap(device)))
    }

    /// Whether the other end hears of offloads.
    pub(super) fn carries_offloads(&self) -> bool {
        !matches!(self.0, Kind::Stream(_))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Cable(socket) | Kind::Tap(socket) => socket.as_fd(),
            Kind::Stream(stream) => stream.descriptor(),
        }
    }

    /// Sends `header`, then the frame: `head` of ours and `rest` of guest memory. A stream may keep it back until
    /// [`Wire::flush`].
    pub(super) fn send(
        &mut self,
        header: &[u8; HEADER],
        head: &[u8],
        memory: &GuestMemoryMmap,
        rest: View<'_>,
    ) -> Sent {
        let prefix = [header.as_slice(), head];
        let result = match &mut self.0 {
            Kind::Cable(socket) => guest_io::send_after(socket, prefix, memory, rest),
            Kind::Tap(device) => guest_io::write_after(device, prefix, memory, rest),
            Kind::Stream(stream) => return stream.send(head, memory, rest),
        };
        match result {
            Ok(_) => Sent::Yes,
            Err(error) if is_full(&error) => Sent::Later,
            // The kernel refuses this frame, not the device: a tap that is down, or a frame it finds malformed.
            Err(_) if matches!(self.0, Kind::Tap(_)) => Sent::Yes,
            Err(_) => Sent::Gone,
        }
    }

    /// Sends what a stream has kept back; true when there is room again.
    pub(super) fn flush(&mut self) -> bool {
        match &mut self.0 {
            Kind::Stream(stream) => stream.flush(),
            Kind::Cable(_) | Kind::Tap(_) => true,
        }
    }

    /// Whether something of earlier frames waits for room.
    pub(super) fn is_behind(&self) -> bool {
        match &self.0 {
            Kind::Stream(stream) => stream.is_behind(),
            Kind::Cable(_) | Kind::Tap(_) => false,
        }
    }

    /// Takes one packet.
    pub(super) fn receive(&mut self, into: &mut [u8; ROOM]) -> Received {
        let result = match &mut self.0 {
            Kind::Cable(socket) => {
                rustix::net::recv(socket, &mut into[..], RecvFlags::DONTWAIT).map(|(len, _)| len)
            }
            Kind::Tap(device) => rustix::io::read(device, &mut into[..]),
            Kind::Stream(stream) => return stream.receive(into),
        };
        match result {
            // A cable has no empty packets: it was pulled out.
            Ok(0) => Received::Gone,
            Ok(len) => Received::Packet(len),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_gone) => Received::Gone,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    // A message that the socket's buffers will never take is reported as such, and is lost with its connection.
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}
