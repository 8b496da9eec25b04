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

mod carrier;
mod control;
mod link;
mod ports;
mod vm;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use casemate_qrexec_wire::{ExecParams, ToAgent, ToBroker, Trigger, Version};
use casemate_vm::{VmId, VmName};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::sleep_until,
};

use self::{
    carrier::NoControl,
    control::{Control, Over},
    link::LinkError,
    ports::{Ports, never},
    vm::Order,
};
pub(crate) use self::{
    carrier::{CallEnd, Carrier, Host},
    link::Link,
    vm::{Caller, Leg, SessionError, Slots, Streams, Vm},
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
            meets: carrier.meets(),
            orders,
            agent,
        };
        let now = Instant::now();
        // Any number that differs between two starts will do; a socket is gone with its call, so there none is needed.
        let start = match &carrier {
            Carrier::Link(_) => std::process::id().wrapping_add(id.0.wrapping_mul(61)),
            Carrier::Sockets(_) => 0,
        };
        let session = Session {
            vm: vm.clone(),
            broker: Arc::downgrade(broker),
            carrier,
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
    ports: Ports,
    pending: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    rate: Bucket,
    /// Number of the present control stream.
    stream: u64,
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
            for port in self.ports.free_all() {
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
        let control = self.carrier.control().await;
        let mut control = control.map_err(|error| match error {
            NoControl::Link(error) => Break::from(error),
            NoControl::Stream(over) => Break::from(over),
        })?;
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
                error = self.carrier.ended() => return Err(error.into()),
                () = sleep_until(deadline.into()) => {
                    for port in self.ports.overdue(Instant::now()) {
                        self.carrier.withdraw(port).await?;
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
                    self.carrier.withdraw(params.port).await?;
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
                streams,
                end,
                reply,
            } => {
                if !control.is_open() {
                    let _ = reply.send(Err(SessionError::NoAgent));
                    return Ok(());
                }
                let Some(leg) = self.open(peer, end).await? else {
                    let _ = reply.send(Err(SessionError::NoPort));
                    return Ok(());
                };
                let params = ExecParams {
                    domain: peer,
                    port: leg.port,
                };
                control.send(&match streams {
                    Streams::Connected => ToAgent::Execute(params, command),
                    Streams::None => ToAgent::JustExecute(params, command),
                })?;
                self.hand_over(leg, reply).await
            }
            Order::Connect {
                caller,
                peer,
                end,
                reply,
            } => {
                if caller.stream != self.stream {
                    let _ = reply.send(Err(SessionError::NoCaller));
                    return Ok(());
                }
                let Some(leg) = self.open(peer, end).await? else {
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

    /// Takes a port and makes the stream available under it, before the agent hears of it.
    async fn open(&mut self, peer: u32, end: CallEnd) -> Result<Option<Leg>, Break> {
        let taken = match (&self.carrier, &end) {
            (
                Carrier::Sockets(_),
                CallEnd::Socket {
                    port: Some(port), ..
                },
            ) => {
                let ended = self.ports.join(peer, *port);
                ended.map(|ended| (*port, ended))
            }
            (Carrier::Sockets(sockets), _) => self.ports.meet(sockets.vm(), peer),
            (Carrier::Link(_), _) => self.ports.take(peer, Instant::now() + OFFER_LIFE),
        };
        let Some((port, ended)) = taken else {
            return Ok(None);
        };
        let listening = self.carrier.offer(port, end).await?;
        Ok(Some(Leg {
            port,
            listening,
            ended,
        }))
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
        Ok(self.carrier.withdraw(port).await?)
    }
}
