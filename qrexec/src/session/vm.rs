//! A VM's session as others see it: the orders that it takes.

use std::{os::fd::OwnedFd, sync::Arc};

use casemate_qrexec_session::{Caller, Failed, Streams};
use casemate_qrexec_wire::CommandLine;
use casemate_vm::{VmId, VmName};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::carrier::{CallEnd, Host};
use crate::{ask::Attention, grants::Instance, vchan::Listening};

/// What others want of a session.
#[derive(Debug)]
pub(super) enum Order {
    /// Run a command with the VM as the service end of the stream.
    Serve {
        peer: u32,
        command: CommandLine,
        streams: Streams,
        end: CallEnd,
        reply: oneshot::Sender<Result<Leg, SessionError>>,
    },
    /// A call of the VM was accepted: it is the client end of the stream.
    Connect {
        caller: Caller,
        peer: u32,
        end: CallEnd,
        reply: oneshot::Sender<Result<Leg, SessionError>>,
    },
    /// A call of the VM was refused.
    Refuse { caller: Caller },
    /// The other end of a call could not be set up: take the offer back.
    Abandon { port: u32 },
    /// Somebody killed the call of this port, which `peer` is the other end of.
    Cut { peer: u32, port: u32 },
    /// The VM has ended.
    Detach,
}

/// Why a session could not do what was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// The VM is not attached any more.
    #[error("the VM has ended")]
    Gone,
    /// The VM's agent has not said hello.
    #[error("the agent of the VM does not answer")]
    NoAgent,
    /// Every data port of the VM is in use.
    #[error("the VM takes part in too many calls")]
    NoPort,
    /// Who called does not wait any more.
    #[error("the caller has gone")]
    NoCaller,
}

impl From<Failed> for SessionError {
    fn from(failed: Failed) -> Self {
        match failed {
            // A stream that is broken has no agent at its other end any more.
            Failed::NoAgent | Failed::Broken(_) => Self::NoAgent,
            Failed::NoCaller => Self::NoCaller,
            Failed::NoPort => Self::NoPort,
        }
    }
}

/// One VM's part in a call.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) port: u32,
    /// Domain number of the other end.
    pub(super) peer: u32,
    /// Where the VM is awaited, when that is us.
    pub(crate) listening: Option<Listening>,
    /// `None` once it was heard.
    pub(super) ended: Option<oneshot::Receiver<()>>,
}

impl Leg {
    /// Domain number of the other end.
    pub(crate) fn peer(&self) -> u32 {
        self.peer
    }

    /// Returns when the VM's agent has reported the end, or can never do so; at once when that was heard before.
    pub(crate) async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            // Nothing is ever sent: the sender is dropped with the port.
            let _ = ended.await;
            self.ended = None;
        }
    }
}

/// A session as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub(crate) name: VmName,
    pub(crate) id: VmId,
    /// Tells two sessions of VMs of one name apart.
    pub(crate) number: u64,
    pub(crate) attention: Arc<Attention>,
    /// Whether its calls meet at sockets, without us.
    pub(crate) meets: bool,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) agent: watch::Receiver<bool>,
}

impl Vm {
    /// The VM as it runs now.
    pub(crate) fn instance(&self) -> Instance {
        Instance {
            name: self.name.to_string(),
            number: self.number,
        }
    }

    /// Returns when the agent has said hello.
    pub(crate) async fn wait_agent(&self) -> Result<(), SessionError> {
        let mut agent = self.agent.clone();
        let said = agent.wait_for(|said| *said).await;
        said.map(|_| ()).map_err(|_| SessionError::Gone)
    }

    /// Makes the VM the service end of a stream.
    pub(crate) async fn serve(
        &self,
        peer: u32,
        command: CommandLine,
        streams: Streams,
        end: CallEnd,
    ) -> Result<Leg, SessionError> {
        self.order(|reply| Order::Serve {
            peer,
            command,
            streams,
            end,
            reply,
        })
        .await
    }

    /// The two ends of a call of this VM's service: two of a new pair, or a socket under a port that is yet to be taken.
    pub(crate) fn ends(&self, host: Host) -> std::io::Result<(Option<OwnedFd>, CallEnd)> {
        if self.meets {
            return Ok((None, CallEnd::Socket { port: None, host }));
        }
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        Ok((Some(ours.into()), CallEnd::Stream(theirs.into())))
    }

    /// Makes a caller in the VM the client end of a stream.
    pub(crate) async fn connect(
        &self,
        caller: Caller,
        peer: u32,
        end: CallEnd,
    ) -> Result<Leg, SessionError> {
        self.order(|reply| Order::Connect {
            caller,
            peer,
            end,
            reply,
        })
        .await
    }

    /// Tells a caller in the VM that it was refused.
    pub(crate) async fn refuse(&self, caller: Caller) {
        let _ = self.orders.send(Order::Refuse { caller }).await;
    }

    /// Gives a leg up that nobody will use.
    pub(crate) async fn abandon(&self, leg: Leg) {
        let _ = self.orders.send(Order::Abandon { port: leg.port }).await;
    }

    /// Cuts a leg off, whatever is on its way in it. Its port stays in use until the agent reports the end.
    pub(crate) async fn cut(&self, leg: &Leg) {
        let (peer, port) = (leg.peer, leg.port);
        let _ = self.orders.send(Order::Cut { peer, port }).await;
    }

    /// Returns when the session has ended.
    pub(crate) async fn gone(&self) {
        self.orders.closed().await;
    }

    /// Ends the session.
    pub(crate) async fn detach(&self) {
        let _ = self.orders.send(Order::Detach).await;
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<Leg, SessionError>>) -> Order,
    ) -> Result<Leg, SessionError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.orders.send(order(reply)).await;
        sent.map_err(|_| SessionError::Gone)?;
        answer.await.unwrap_or(Err(SessionError::Gone))
    }
}

/// What a call holds on to while it waits for its decision, and while it runs.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) pending: OwnedSemaphorePermit,
    pub(crate) call: OwnedSemaphorePermit,
}
