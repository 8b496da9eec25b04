//! Owned resource: a sequenced-packet socket that carries one message and its descriptors.
//!
//! Used for the vmm's control socket and for its links to the broker and the compositor. It knows no message;
//! those are in `casemate-vmm-control`. All calls block unless the socket was made non-blocking, except that
//! descriptors beyond [`MAX_DESCRIPTORS`] are closed by the kernel and reported as [`Error::Truncated`].
#![deny(missing_docs)]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Most descriptors beside one message; a sender of more loses them.
pub const MAX_DESCRIPTORS: usize = 4;

/// A connected `SOCK_SEQPACKET` socket of `AF_UNIX`.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// One received message.
#[derive(Debug)]
pub struct Packet {
    /// The message.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a message could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer has gone.
    #[error("the peer closed the socket")]
    Closed,
    /// The message was longer than the receiver allows, or had too many descriptors.
    #[error("the message was longer than allowed")]
    Truncated,
    /// Nothing to read, or no room to write, on a non-blocking socket.
    #[error("the socket is not ready")]
    WouldBlock,
    /// Anything else the kernel said.
    #[error("socket error")]
    Io(#[source] io::Error),
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::WOULDBLOCK => Self::WouldBlock,
            rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

impl PacketSocket {
    /// A connected pair, close-on-exec.
    ///
    /// # Errors
    /// The kernel's, when out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message with its descriptors, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::WouldBlock`] or the kernel's.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(Error::Truncated);
        }
        sendmsg(
            &self.0,
            &[io::IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Receives one message of at most `max` bytes.
    ///
    /// # Errors
    /// [`Error::Closed`] at the end, [`Error::Truncated`] when the message or its descriptors did not fit.
    pub fn receive(&self, max: usize) -> Result<Packet, Error> {
        let mut bytes = vec![0; max];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [io::IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let descriptors = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect::<Vec<OwnedFd>>();
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(Error::Truncated);
        }
        if received.bytes == 0 && descriptors.is_empty() {
            return Err(Error::Closed);
        }
        bytes.truncate(received.bytes);
        Ok(Packet { bytes, descriptors })
    }

    /// Makes later calls return [`Error::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, on)?)
    }
}

impl From<OwnedFd> for PacketSocket {
    /// The caller knows that it is a connected sequenced-packet socket.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptor() {
        let (a, b) = PacketSocket::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        a.send(b"hello", &[writer.as_fd()]).unwrap();
        drop(writer);
        let packet = b.receive(16).unwrap();
        assert_eq!(packet.bytes, b"hello");
        rustix::io::write(&packet.descriptors[0], b"x").unwrap();
        drop(packet);
        let mut buffer = [0; 4];
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 1);
        assert_eq!(
            rustix::io::read(&reader, &mut buffer).unwrap(),
            0,
            "no copy of the descriptor was left open"
        );
    }

    #[test]
    fn limits_and_the_end_are_reported() {
        let (a, b) = PacketSocket::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        assert!(matches!(b.receive(8), Err(Error::WouldBlock)));
        a.send(&[0; 9], &[]).unwrap();
        assert!(matches!(b.receive(8), Err(Error::Truncated)));
        drop(a);
        assert!(matches!(b.receive(8), Err(Error::Closed)));
        assert!(matches!(b.send(b"x", &[]), Err(Error::Closed)));
    }
}
