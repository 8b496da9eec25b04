//! The session of one VM: the only owner of its link, its control stream and its ports. Others send it orders.
//!
//! ```text
//!   attached ─▶ Offered ──HELLO──▶ Open ──stream over──▶ Resting ──pause──▶ Offered
//!                  │                 │                      │
//!                  └──── link over, or detached ────────────┴──▶ gone
//! ```
//!
//! When a control stream is over, so are the VM's calls as far as the broker knows: their ports are free, who waits
//! for their end is told, and calls that wait for a decision are dropped. The agent of a VM whose link is over is
//! never heard again. An agent that breaks the protocol loses its control stream and may come again after a pause;
//! no other VM notices.

mod control;
mod link;
mod ports;

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use casemate_qrexec_wire::{
    CommandLine, ExecParams, Ident, ToAgent, ToBroker, Trigger, Version, limits::CONTROL_PORT,
};
use casemate_vm::{VmId, VmName};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::sleep_until,
};

pub(crate) use self::link::Link;
use self::{
    control::{Control, Over},
    link::LinkError,
    ports::{Ports, never},
};
use crate::{
    ask::Attention,
    broker::Broker,
    call,
    limits::{
        Bucket, CALL_BURST, CALLS_PER_SECOND, MAX_CALLS, MAX_ORDERS, MAX_PENDING, OFFER_LIFE,
    },
};

/// Pause before a control stream is offered again: after an orderly end, and after one by fault of the agent.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What others want of a session.
#[derive(Debug)]
pub(crate) enum Order {
    /// Run a command with the VM as the service end of `stream`.
    Serve {
        peer: u32,
        command: CommandLine,
        stream: OwnedFd,
        reply: oneshot::Sender<Result<Leg, SessionError>>,
    },
    /// A call of the VM was accepted: it is the client end of `stream`.
    Connect {
        caller: Caller,
        peer: u32,
        stream: OwnedFd,
        reply: oneshot::Sender<Result<Leg, SessionError>>,
    },
    /// A call of the VM was refused.
    Refuse { caller: Caller },
    /// The other end of a call could not be set up: take the offer back.
    Abandon { port: u32 },
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

/// One VM's part in a call.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) port: u32,
    ended: oneshot::Receiver<()>,
}

impl Leg {
    /// Returns when the VM's agent has reported the end, or can never do so.
    pub(crate) async fn ended(&mut self) {
        // Nothing is ever sent: the sender is dropped with the port.
        let _ = (&mut self.ended).await;
    }
}

/// Who waits in the VM for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    ident: Ident,
    /// The control stream that it came on; an answer on a later one would reach somebody else.
    stream: u64,
}

/// A session as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub(crate) name: VmName,
    pub(crate) id: VmId,
    /// Tells two sessions of VMs of one name apart.
    pub(crate) number: u64,
    pub(crate) attention: Arc<Attention>,
    orders: mpsc::Sender<Order>,
    agent: watch::Receiver<bool>,
}

impl Vm {
    /// Starts the session of a VM.
    pub(crate) fn start(
        broker: &Arc<Broker>,
        name: VmName,
        id: VmId,
        number: u64,
        link: Link,
    ) -> Self {
        let (orders, inbox) = mpsc::channel(MAX_ORDERS);
        let (tell_agent, agent) = watch::channel(false);
        let vm = Self {
            name,
            id,
            number,
            attention: Arc::new(Attention::new(Instant::now())),
            orders,
            agent,
        };
        let now = Instant::now();
        // Any number that differs between two starts will do.
        let start = std::process::id().wrapping_add(id.0.wrapping_mul(61));
        let session = Session {
            vm: vm.clone(),
            broker: Arc::downgrade(broker),
            link,
            inbox,
            agent: tell_agent,
            ports: Ports::new(start),
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            rate: Bucket::new(CALL_BURST, f64::from(CALLS_PER_SECOND), now),
            stream: 0,
        };
        tokio::spawn(session.run());
        vm
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
        stream: OwnedFd,
    ) -> Result<Leg, SessionError> {
        self.order(|reply| Order::Serve {
            peer,
            command,
            stream,
            reply,
        })
        .await
    }

    /// Makes a caller in the VM the client end of a stream.
    pub(crate) async fn connect(
        &self,
        caller: Caller,
        peer: u32,
        stream: OwnedFd,
    ) -> Result<Leg, SessionError> {
        self.order(|reply| Order::Connect {
            caller,
            peer,
            stream,
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

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("detached")]
    Detached,
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Why a session does not go on as it was.
enum Break {
    Stream(Over),
    Session(End),
}

impl From<Over> for Break {
    fn from(over: Over) -> Self {
        Self::Stream(over)
    }
}

impl From<LinkError> for Break {
    fn from(error: LinkError) -> Self {
        Self::Session(error.into())
    }
}

struct Session {
    vm: Vm,
    /// Not strong: the broker's end is the sessions' end.
    broker: Weak<Broker>,
    link: Link,
    inbox: mpsc::Receiver<Order>,
    agent: watch::Sender<bool>,
    ports: Ports,
    pending: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    rate: Bucket,
    /// Number of the present control stream.
    stream: u64,
}

/// What a call holds on to while it waits for its decision, and while it runs.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) pending: OwnedSemaphorePermit,
    pub(crate) call: OwnedSemaphorePermit,
}

impl Session {
    async fn run(mut self) {
        let end = self.streams().await;
        tracing::info!(vm = %self.vm.name, reason = %end, "session over");
        if let Some(broker) = self.broker.upgrade() {
            broker.forget(&self.vm);
        }
    }

    /// One control stream after the other.
    async fn streams(&mut self) -> End {
        loop {
            let over = match self.one_stream().await {
                Break::Session(end) => return end,
                Break::Stream(over) => over,
            };
            let pause = match over {
                Over::Ended => {
                    tracing::info!(vm = %self.vm.name, "control stream over");
                    PAUSES.0
                }
                _ => {
                    tracing::warn!(vm = %self.vm.name, reason = %over, "control stream dropped");
                    PAUSES.1
                }
            };
            self.agent.send_replace(false);
            for port in self.ports.free_all() {
                if let Err(error) = self.link.withdraw(port).await {
                    return error.into();
                }
            }
            if let Err(end) = self.rest(pause).await {
                return end;
            }
        }
    }

    /// Between two streams: nothing can be done for anyone.
    async fn rest(&mut self, pause: Duration) -> Result<(), End> {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                error = self.link.ended() => return Err(error.into()),
                order = self.inbox.recv() => match order {
                    None | Some(Order::Detach) => return Err(End::Detached),
                    Some(Order::Serve { reply, .. }) => {
                        let _ = reply.send(Err(SessionError::NoAgent));
                    }
                    Some(Order::Connect { reply, .. }) => {
                        let _ = reply.send(Err(SessionError::NoCaller));
                    }
                    Some(Order::Refuse { .. } | Order::Abandon { .. }) => {}
                },
            }
        }
    }

    async fn one_stream(&mut self) -> Break {
        // Dropped with this stream: calls that wait for a decision are not waited for any more.
        let (_alive, calls_alive) = watch::channel(());
        match self.try_stream(&calls_alive).await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    async fn try_stream(
        &mut self,
        alive: &watch::Receiver<()>,
    ) -> Result<std::convert::Infallible, Break> {
        self.stream += 1;
        let (mut control, theirs) = Control::pair().map_err(Over::from)?;
        self.link.offer(CONTROL_PORT, theirs).await?;
        loop {
            let now = Instant::now();
            let deadline = self.ports.next_deadline().unwrap_or_else(|| never(now));
            tokio::select! {
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(order, &mut control).await?,
                    None => return Err(Break::Session(End::Detached)),
                },
                read = control.progress() => {
                    read?;
                    while let Some(message) = control.take()? {
                        self.hear(message, &mut control, alive).await?;
                    }
                }
                error = self.link.ended() => return Err(error.into()),
                () = sleep_until(deadline.into()) => {
                    for port in self.ports.overdue(Instant::now()) {
                        self.link.withdraw(port).await?;
                    }
                }
            }
        }
    }

    async fn hear(
        &mut self,
        message: ToBroker,
        control: &mut Control,
        alive: &watch::Receiver<()>,
    ) -> Result<(), Break> {
        match message {
            ToBroker::Hello(version) => {
                control.send(&ToAgent::Hello(Version::OURS.number()))?;
                self.agent.send_replace(true);
                tracing::info!(vm = %self.vm.name, version, "agent ready");
            }
            ToBroker::Trigger(trigger) => self.trigger(trigger, control, alive)?,
            ToBroker::Terminated(params) => {
                if self.ports.end(params) {
                    // A guest that reports the end without having connected leaves its offer behind.
                    self.link.withdraw(params.port).await?;
                } else {
                    tracing::debug!(vm = %self.vm.name, port = params.port, "end of an unknown call");
                }
            }
        }
        Ok(())
    }

    /// Has a call judged in a task of its own, or refuses it when there are too many.
    fn trigger(
        &mut self,
        trigger: Trigger,
        control: &mut Control,
        alive: &watch::Receiver<()>,
    ) -> Result<(), Break> {
        let caller = Caller {
            ident: trigger.ident,
            stream: self.stream,
        };
        let permits = self.rate.take(Instant::now()).then(|| {
            let pending = Arc::clone(&self.pending).try_acquire_owned().ok()?;
            let call = Arc::clone(&self.calls).try_acquire_owned().ok()?;
            Some(Slots { pending, call })
        });
        let (Some(slots), Some(broker)) = (permits.flatten(), self.broker.upgrade()) else {
            tracing::debug!(vm = %self.vm.name, "too many calls; one refused unheard");
            control.send(&ToAgent::Refused(trigger.ident))?;
            return Ok(());
        };
        let vm = self.vm.clone();
        let alive = alive.clone();
        tokio::spawn(call::run(broker, vm, trigger, caller, slots, alive));
        Ok(())
    }

    async fn obey(&mut self, order: Order, control: &mut Control) -> Result<(), Break> {
        match order {
            Order::Serve {
                peer,
                command,
                stream,
                reply,
            } => {
                if !control.is_open() {
                    let _ = reply.send(Err(SessionError::NoAgent));
                    return Ok(());
                }
                let Some(leg) = self.open(peer, stream).await? else {
                    let _ = reply.send(Err(SessionError::NoPort));
                    return Ok(());
                };
                let params = ExecParams {
                    domain: peer,
                    port: leg.port,
                };
                control.send(&ToAgent::Execute(params, command))?;
                self.hand_over(leg, reply).await
            }
            Order::Connect {
                caller,
                peer,
                stream,
                reply,
            } => {
                if caller.stream != self.stream {
                    let _ = reply.send(Err(SessionError::NoCaller));
                    return Ok(());
                }
                let Some(leg) = self.open(peer, stream).await? else {
                    let _ = reply.send(Err(SessionError::NoPort));
                    return Ok(());
                };
                let params = ExecParams {
                    domain: peer,
                    port: leg.port,
                };
                control.send(&ToAgent::Connect(params, caller.ident))?;
                self.hand_over(leg, reply).await
            }
            Order::Refuse { caller } => {
                if caller.stream == self.stream {
                    control.send(&ToAgent::Refused(caller.ident))?;
                }
                Ok(())
            }
            Order::Abandon { port } => self.abandon(port).await,
            Order::Detach => Err(Break::Session(End::Detached)),
        }
    }

    /// Takes a port and offers the stream under it. The offer is out before the agent hears of it.
    async fn open(&mut self, peer: u32, stream: OwnedFd) -> Result<Option<Leg>, Break> {
        let until = Instant::now() + OFFER_LIFE;
        let Some((port, ended)) = self.ports.take(peer, until) else {
            return Ok(None);
        };
        self.link.offer(port, stream).await?;
        Ok(Some(Leg { port, ended }))
    }

    async fn hand_over(
        &mut self,
        leg: Leg,
        reply: oneshot::Sender<Result<Leg, SessionError>>,
    ) -> Result<(), Break> {
        match reply.send(Ok(leg)) {
            Err(Ok(unwanted)) => self.abandon(unwanted.port).await,
            _ => Ok(()),
        }
    }

    /// Takes an offer back. The port stays in use until the agent, who was told of it, reports its end.
    async fn abandon(&mut self, port: u32) -> Result<(), Break> {
        Ok(self.link.withdraw(port).await?)
    }
}
