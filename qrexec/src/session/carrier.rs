//! What carries a VM's streams: the link to its vmm, or sockets in a directory.

use std::{future::pending, os::fd::OwnedFd};

use casemate_qrexec_session::Transport;
use casemate_qrexec_wire::limits::CONTROL_PORT;

use super::{
    control::{Control, Over},
    link::{Link, LinkError},
};
use crate::vchan::{Listening, Sockets};

/// How one VM is reached.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// A vmm that joins what we offer with what its guest connects to.
    Link(Link),
    /// Sockets at which both ends meet by themselves.
    Sockets(Sockets),
}

/// What a VM's end of a call is.
#[derive(Debug)]
pub(crate) enum CallEnd {
    /// One end of a stream, offered to the VM.
    Stream(OwnedFd),
    /// A socket, under a port that is taken from this VM or was taken from the other.
    Socket { port: Option<u32>, host: Host },
}

/// Whether the broker itself listens for the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Listens,
    StaysOut,
}

/// Why there is no control stream.
pub(super) enum NoControl {
    Link(LinkError),
    Stream(Over),
}

impl Carrier {
    /// Which of the two it is.
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Link(_) => Transport::Link,
            Self::Sockets(_) => Transport::Sockets,
        }
    }

    /// Begins a control stream.
    pub(super) async fn control(&self) -> Result<Control, NoControl> {
        match self {
            Self::Link(link) => {
                let (control, theirs) =
                    Control::pair().map_err(|error| NoControl::Stream(error.into()))?;
                let offered = link.offer(CONTROL_PORT, theirs).await;
                offered.map_err(NoControl::Link)?;
                Ok(control)
            }
            Self::Sockets(sockets) => {
                let stream = sockets.control().await;
                let stream = stream.map_err(|_| NoControl::Stream(Over::Absent))?;
                Ok(Control::over(stream))
            }
        }
    }

    /// Makes a data stream available under a port.
    pub(super) async fn offer(
        &self,
        port: u32,
        end: CallEnd,
    ) -> Result<Option<Listening>, LinkError> {
        match (self, end) {
            (Self::Link(link), CallEnd::Stream(stream)) => {
                link.offer(port, stream).await.map(|()| None)
            }
            (
                Self::Sockets(sockets),
                CallEnd::Socket {
                    host: Host::Listens,
                    ..
                },
            ) => sockets.listen(port).map(Some).map_err(LinkError::Io),
            (Self::Sockets(_), CallEnd::Socket { .. }) => Ok(None),
            // Two VMs of different transports: `Call::join` does not mix them.
            _ => Err(LinkError::NotALink),
        }
    }

    /// Takes an offer back.
    pub(super) async fn withdraw(&self, port: u32) -> Result<(), LinkError> {
        match self {
            Self::Link(link) => link.withdraw(port).await,
            Self::Sockets(_) => Ok(()),
        }
    }

    /// Ends a data stream, used or not. At sockets the two ends are by themselves.
    pub(super) async fn cut(&self, port: u32) -> Result<(), LinkError> {
        match self {
            Self::Link(link) => link.cut(port).await,
            Self::Sockets(_) => Ok(()),
        }
    }

    /// Returns when the VM cannot be reached any more.
    pub(super) async fn ended(&self) -> LinkError {
        match self {
            Self::Link(link) => link.ended().await,
            Self::Sockets(_) => pending().await,
        }
    }
}
