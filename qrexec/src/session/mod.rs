//! The session of one VM: the only owner of its link and of its control stream. Others send it orders. What is said on
//! the stream, and which ports are in use, is `casemate_qrexec_session`'s to know; here it meets the kernel.
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

mod carrier;
mod control;
mod link;
mod vm;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

pub(crate) use casemate_qrexec_session::{Caller, Streams};
use casemate_qrexec_session::{Failed, Heard, Port, Transport};
use casemate_qrexec_wire::{ExecParams, Trigger};
use casemate_vm::{VmId, VmName};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::sleep_until,
};

use self::{carrier::NoControl, control::Over, link::LinkError, vm::Order};
pub(crate) use self::{
    carrier::{CallEnd, Carrier, Host},
    link::Link,
    vm::{Leg, SessionError, Slots, Vm},
};
use crate::{
    ask::Attention,
    broker::Broker,
    call,
    limits::{MAX_CALLS, MAX_ORDERS, MAX_PENDING},
};

/// A wait without end.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Pause before a control stream is offered again: after an orderly end, and after one by fault of the agent.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

impl Vm {
    /// Starts the session of a VM.
    pub(crate) fn start(
        broker: &Arc<Broker>,
        name: VmName,
        id: VmId,
        number: u64,
        carrier: Carrier,
    ) -> Self {
        let (orders, inbox) = mpsc::channel(MAX_ORDERS);
        let (tell_agent, agent) = watch::channel(false);
        let vm = Self {
            name,
            id,
            number,
            attention: Arc::new(Attention::new(Instant::now())),
            meets: carrier.transport() == Transport::Sockets,
            orders,
            agent,
        };
        let now = Instant::now();
        // Any number that differs between two starts will do; a socket is gone with its call, so there none is needed.
        let start = match &carrier {
            Carrier::Link(_) => std::process::id().wrapping_add(id.0.wrapping_mul(61)),
            Carrier::Sockets(_) => 0,
        };
        let said = casemate_qrexec_session::Session::new(id.0, carrier.transport(), start, now);
        let session = Session {
            vm: vm.clone(),
            broker: Arc::downgrade(broker),
            carrier,
            inbox,
            agent: tell_agent,
            said,
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
        };
        tokio::spawn(session.run());
        vm
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
    carrier: Carrier,
    inbox: mpsc::Receiver<Order>,
    agent: watch::Sender<bool>,
    /// What was said, and the calls of it. A leg is held until its port is free.
    said: casemate_qrexec_session::Session<oneshot::Sender<()>>,
    pending: Arc<Semaphore>,
    calls: Arc<Semaphore>,
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
                Over::Absent => PAUSES.0,
                _ => {
                    tracing::warn!(vm = %self.vm.name, reason = %over, "control stream dropped");
                    PAUSES.1
                }
            };
            self.agent.send_replace(false);
            if self.vm.meets
                && let Some(broker) = self.broker.upgrade()
            {
                // Nothing but its control stream tells one VM at these sockets from the next.
                broker.ended(&self.vm);
            }
            for port in self.said.end() {
                if let Err(error) = self.carrier.withdraw(port).await {
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
                error = self.carrier.ended() => return Err(error.into()),
                order = self.inbox.recv() => match order {
                    None | Some(Order::Detach) => return Err(End::Detached),
                    Some(Order::Serve { reply, .. }) => {
                        let _ = reply.send(Err(SessionError::NoAgent));
                    }
                    Some(Order::Connect { reply, .. }) => {
                        let _ = reply.send(Err(SessionError::NoCaller));
                    }
                    Some(Order::Refuse { .. } | Order::Abandon { .. } | Order::Cut { .. }) => {}
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
        let control = self.carrier.control().await;
        let mut control = control.map_err(|error| match error {
            NoControl::Link(error) => Break::from(error),
            NoControl::Stream(over) => Break::from(over),
        })?;
        self.said.begin();
        loop {
            let deadline = self.said.next_deadline();
            let deadline = deadline.unwrap_or_else(|| Instant::now() + NEVER);
            tokio::select! {
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(order).await?,
                    None => return Err(Break::Session(End::Detached)),
                },
                read = control.progress(&mut self.said) => {
                    read?;
                    while let Some(heard) = self.said.hear(Instant::now()).map_err(Over::from)? {
                        self.heed(heard, alive).await?;
                    }
                }
                error = self.carrier.ended() => return Err(error.into()),
                () = sleep_until(deadline.into()) => {
                    for port in self.said.overdue(Instant::now()) {
                        self.carrier.withdraw(port).await?;
                    }
                }
            }
        }
    }

    async fn heed(&mut self, heard: Heard, alive: &watch::Receiver<()>) -> Result<(), Break> {
        match heard {
            Heard::Ready(version) => {
                self.agent.send_replace(true);
                tracing::info!(vm = %self.vm.name, version, "agent ready");
            }
            Heard::Call(trigger, caller) => self.called(trigger, caller, alive)?,
            Heard::TooFast => {
                tracing::debug!(vm = %self.vm.name, "too many calls; one refused unheard");
            }
            // A guest that reports the end without having connected leaves its offer behind.
            Heard::Ended(port) => self.carrier.withdraw(port).await?,
            Heard::EndOfNothing(params) => {
                tracing::debug!(vm = %self.vm.name, port = params.port, "end of an unknown call");
            }
        }
        Ok(())
    }

    /// Has a call judged in a task of its own, or refuses it when there are too many.
    fn called(
        &mut self,
        trigger: Trigger,
        caller: Caller,
        alive: &watch::Receiver<()>,
    ) -> Result<(), Break> {
        let permit = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let permits = permit(&self.pending).zip(permit(&self.calls));
        let (Some((pending, call)), Some(broker)) = (permits, self.broker.upgrade()) else {
            tracing::debug!(vm = %self.vm.name, "too many calls wait; one refused unheard");
            return Ok(self.said.refuse(&caller).map_err(Over::from)?);
        };
        let slots = Slots { pending, call };
        let (vm, alive) = (self.vm.clone(), alive.clone());
        tokio::spawn(call::run(broker, vm, trigger, caller, slots, alive));
        Ok(())
    }

    async fn obey(&mut self, order: Order) -> Result<(), Break> {
        match order {
            Order::Serve {
                peer,
                command,
                streams,
                end,
                reply,
            } => {
                let (ended, leg) = oneshot::channel();
                let now = Instant::now();
                let port = self.said.serve(peer, command, streams, ended, now);
                self.open(peer, port, end, leg, reply).await
            }
            Order::Connect {
                caller,
                peer,
                end,
                reply,
            } => {
                let (ended, leg) = oneshot::channel();
                let port = match end {
                    CallEnd::Socket {
                        port: Some(port), ..
                    } => Port::Given(port),
                    _ => Port::Free,
                };
                let now = Instant::now();
                let port = self.said.connect(&caller, peer, port, ended, now);
                self.open(peer, port, end, leg, reply).await
            }
            Order::Refuse { caller } => Ok(self.said.refuse(&caller).map_err(Over::from)?),
            Order::Abandon { port } => self.abandon(port).await,
            Order::Cut { peer, port } => {
                // By now the port may be free, or that of another call.
                if self.said.is_in_use(ExecParams { domain: peer, port }) {
                    self.carrier.cut(port).await?;
                }
                Ok(())
            }
            Order::Detach => Err(Break::Session(End::Detached)),
        }
    }

    /// Makes a leg's stream available under its port. The agent hears of it afterwards: what waits for it is sent by
    /// [`control::Control::progress`] only.
    async fn open(
        &mut self,
        peer: u32,
        port: Result<u32, Failed>,
        end: CallEnd,
        ended: oneshot::Receiver<()>,
        reply: oneshot::Sender<Result<Leg, SessionError>>,
    ) -> Result<(), Break> {
        let port = match port {
            Ok(port) => port,
            Err(failed) => {
                let _ = reply.send(Err(failed.into()));
                return match failed {
                    Failed::Broken(broken) => Err(Over::from(broken).into()),
                    _ => Ok(()),
                };
            }
        };
        let listening = self.carrier.offer(port, end).await?;
        let leg = Leg {
            port,
            peer,
            listening,
            ended: Some(ended),
        };
        match reply.send(Ok(leg)) {
            Err(Ok(unwanted)) => self.abandon(unwanted.port).await,
            _ => Ok(()),
        }
    }

    /// Takes an offer back. The port stays in use until the agent, who was told of it, reports its end.
    async fn abandon(&mut self, port: u32) -> Result<(), Break> {
        Ok(self.carrier.withdraw(port).await?)
    }
}
