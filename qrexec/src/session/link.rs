//! The link to a VM's vmm: offers go out, nothing comes back but the end.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net,
    },
    time::Duration,
};

use casemate_link::PacketSocket;
use casemate_vmm_control::LinkMessage;
use rustix::net::{SocketType, sockopt::socket_type};
use tokio::{io::Interest, net::UnixDatagram, time::timeout};

/// How long a vmm may leave its link unread. It is a thread of its own there, so this is far too long already.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a link is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// What was handed over is something else.
    #[error("the descriptor is not a sequenced-packet socket")]
    NotALink,
    /// The vmm has ended, or has got a new link.
    #[error("the vmm closed the link")]
    Closed,
    /// The vmm said something, which no vmm does.
    #[error("the vmm spoke on its link")]
    Spoke,
    /// The vmm does not read.
    #[error("the vmm does not read its link")]
    Stuck,
    /// Anything else the kernel said.
    #[error("the link failed: {0}")]
    Io(io::Error),
}

/// The broker's end of a link.
#[derive(Debug)]
pub(crate) struct Link {
    socket: PacketSocket,
    /// The same socket, of which only the readiness is used: there is no type for sequenced packets that the reactor
    /// takes, and readiness is the same for all sockets of this family.
    readiness: UnixDatagram,
}

impl Link {
    /// Takes what the supervisor handed over.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, LinkError> {
        if socket_type(&fd).map_err(io::Error::from)? != SocketType::SEQPACKET {
            return Err(LinkError::NotALink);
        }
        let readiness = net::UnixDatagram::from(fd.try_clone()?);
        let socket = PacketSocket::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            readiness: UnixDatagram::from_std(readiness)?,
        })
    }

    /// Offers a stream under a port.
    pub(crate) async fn offer(&self, port: u32, stream: OwnedFd) -> Result<(), LinkError> {
        self.send(LinkMessage::Offer { port }, Some(stream)).await
    }

    /// Takes an offer back, if the guest has not used it yet.
    pub(crate) async fn withdraw(&self, port: u32) -> Result<(), LinkError> {
        self.send(LinkMessage::Withdraw { port }, None).await
    }

    /// Ends what the guest has made of an offer.
    pub(crate) async fn cut(&self, port: u32) -> Result<(), LinkError> {
        self.send(LinkMessage::Cut { port }, None).await
    }

    /// Returns when the link has ended.
    pub(crate) async fn ended(&self) -> LinkError {
        let receive = || self.socket.receive(LinkMessage::LEN).map_err(would_block);
        match self.readiness.async_io(Interest::READABLE, receive).await {
            Ok(_) => LinkError::Spoke,
            Err(error) => error.into(),
        }
    }

    async fn send(&self, message: LinkMessage, stream: Option<OwnedFd>) -> Result<(), LinkError> {
        let bytes = message.encode();
        let descriptors: Vec<_> = stream.iter().map(AsFd::as_fd).collect();
        let send = || self.socket.send(&bytes, &descriptors).map_err(would_block);
        let sent = self.readiness.async_io(Interest::WRITABLE, send);
        timeout(PATIENCE, sent)
            .await
            .map_err(|_| LinkError::Stuck)?
            .map_err(LinkError::from)
    }
}

/// In the words of the reactor, which tries again after [`io::ErrorKind::WouldBlock`].
fn would_block(error: casemate_link::Error) -> io::Error {
    match error {
        casemate_link::Error::WouldBlock => io::ErrorKind::WouldBlock.into(),
        casemate_link::Error::Closed => io::ErrorKind::BrokenPipe.into(),
        casemate_link::Error::Truncated => io::ErrorKind::InvalidData.into(),
        casemate_link::Error::Io(error) => error,
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            io::ErrorKind::InvalidData => Self::Spoke,
            _ => Self::Io(error),
        }
    }
}
