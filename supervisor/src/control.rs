//! The control socket of one vmm: sends actions, reads events. What a vmm says is as hostile as what its guest says,
//! so it is bounded, typed, and paced by the reader.

use std::{
    fs, io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use casemate_link::{Error as LinkError, PacketSocket};
use casemate_vmm_control::{Action, Event, MAX_CONTROL, Malformed, decode, encode};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::watched::{Watched, watch};

/// A new supervisor connects while the old one's connection may still be queued.
const BACKLOG: i32 = 4;

/// A connection to a vmm.
#[derive(Debug)]
pub(crate) struct Control(Watched<PacketSocket>);

/// Why no event could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The vmm has ended.
    #[error("the control socket was closed")]
    Closed,
    /// What came is not of the protocol.
    #[error("it sent something that is not of the control protocol: {0}")]
    Malformed(#[from] Malformed),
    /// Descriptors, which a vmm never sends, or a message that is too long.
    #[error("it sent a message that is not allowed")]
    NotAllowed,
    /// The kernel's.
    #[error("the control socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Makes the listening socket that a vmm inherits.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = unconnected(SocketFlags::CLOEXEC)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn unconnected(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

impl Control {
    /// Connects to the vmm that listens at `path`. Never waits: the kernel queues the connection.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = unconnected(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(watch(PacketSocket::from(socket))?))
    }

    /// The next event. May be dropped and called again without losing one.
    pub(crate) async fn receive(&self) -> Result<Event, ControlError> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.try_receive()? {
                Some(event) => return Ok(event),
                None => ready.clear_ready(),
            }
        }
    }

    /// An event that is there already.
    pub(crate) fn try_receive(&self) -> Result<Option<Event>, ControlError> {
        match self.0.get_ref().get().receive(MAX_CONTROL) {
            Ok(packet) if packet.descriptors.is_empty() => {
                Ok(Some(decode(&packet.bytes, MAX_CONTROL)?))
            }
            Ok(_) | Err(LinkError::Truncated) => Err(ControlError::NotAllowed),
            Err(LinkError::WouldBlock) => Ok(None),
            Err(LinkError::Closed) => Err(ControlError::Closed),
            Err(LinkError::Io(error)) => Err(error.into()),
        }
    }

    /// Sends an action without waiting. A vmm that does not read is found out by its pings.
    pub(crate) fn send(&self, action: &Action, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.0.get_ref().get().send(&encode(action), files) {
            Ok(()) => Ok(()),
            Err(LinkError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(LinkError::Io(error)) => Err(error),
            Err(other) => Err(io::Error::other(other)),
        }
    }
}
