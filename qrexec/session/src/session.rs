//! One VM's session.

use std::time::Instant;

use casemate_qrexec_wire::{
    CommandLine, ControlDecoder, ExecParams, Ident, Malformed, Message, ToAgent, ToBroker, Trigger,
    Version,
};

use crate::{
    Bucket,
    limits::{CALL_BURST, CALLS_PER_SECOND, MAX_OUTGOING, OFFER_LIFE, OUTGOING_HIGH},
    ports::Ports,
};

/// How the VM's data streams are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Its vmm joins what is offered under a port with the guest's connection to it.
    Link,
    /// Both ends of a stream meet at a socket, whose port both must know.
    Sockets,
}

/// Who says which port a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This session.
    Free,
    /// The session of the other VM has said it; only with [`Transport::Sockets`].
    Given(u32),
}

/// Whether a command has standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// It has.
    Connected,
    /// Only its start is reported: JUST_EXEC.
    None,
}

/// Who waits in the VM for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    ident: Ident,
    /// The control stream that it came on; an answer on a later one would reach somebody else.
    stream: u64,
}

/// Something that the agent said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Hello, with its version.
    Ready(u32),
    /// A VM wants to call: to be judged, and answered with [`Session::connect`] or [`Session::refuse`].
    Call(Trigger, Caller),
    /// A call that came too fast after others, and was refused already.
    TooFast,
    /// A data stream has ended: what was offered under its port, if the guest has left it there, is to be taken back.
    Ended(u32),
    /// The end of a call that there is not.
    EndOfNothing(ExecParams),
}

/// Why a control stream can be of no use any more; it must be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The agent broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The agent does not take its answers.
    #[error("the agent does not read its control stream")]
    Unread,
}

/// Why an order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The VM's agent has not said hello, or not since its last stream ended.
    #[error("the agent of the VM does not answer")]
    NoAgent,
    /// Who called does not wait any more.
    #[error("the caller has gone")]
    NoCaller,
    /// Every data port of the VM is in use.
    #[error("the VM takes part in too many calls")]
    NoPort,
    /// The control stream must be ended.
    #[error(transparent)]
    Broken(#[from] Broken),
}

#[derive(Debug, Default)]
struct Control {
    decoder: ControlDecoder<ToBroker>,
    outgoing: Vec<u8>,
    broken: bool,
}

/// The state of one VM's control stream and calls; `L` is what a call's leg holds until its end.
#[derive(Debug)]
pub struct Session<L> {
    own: u32,
    transport: Transport,
    ports: Ports<L>,
    rate: Bucket,
    /// Number of the present control stream, or of the last one.
    stream: u64,
    control: Option<Control>,
}

impl<L> Session<L> {
    /// The session of the VM of this domain number, without a control stream. `start` is any number, another one after
    /// each start of the broker: where the search for free ports begins.
    pub fn new(own: u32, transport: Transport, start: u32, now: Instant) -> Self {
        Self {
            own,
            transport,
            ports: Ports::new(start),
            rate: Bucket::new(CALL_BURST, f64::from(CALLS_PER_SECOND), now),
            stream: 0,
            control: None,
        }
    }

    /// A control stream begins; one that there was has been ended.
    pub fn begin(&mut self) {
        self.stream += 1;
        self.control = Some(Control::default());
    }

    /// The control stream is over, and so are all calls. Returns the ports whose offers are to be taken back.
    pub fn end(&mut self) -> Vec<u32> {
        self.control = None;
        self.ports.free_all()
    }

    /// Whether the agent has said hello on the present stream.
    pub fn is_open(&self) -> bool {
        self.live()
            .is_some_and(|control| control.decoder.version().is_some())
    }

    /// Takes what the agent sent.
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Some(control) = &mut self.control {
            control.decoder.feed(bytes);
        }
    }

    /// The next thing that the agent said, of what was fed.
    ///
    /// # Errors
    /// [`Broken`]; from then on nothing more is heard or said on this stream.
    pub fn hear(&mut self, now: Instant) -> Result<Option<Heard>, Broken> {
        let Some(control) = self.control.as_mut().filter(|control| !control.broken) else {
            return Ok(None);
        };
        let message = match control.decoder.take() {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(malformed) => {
                control.broken = true;
                return Err(malformed.into());
            }
        };
        Ok(Some(match message {
            ToBroker::Hello(version) => {
                self.say(&ToAgent::Hello(Version::OURS.number()))?;
                Heard::Ready(version)
            }
            ToBroker::Trigger(trigger) => {
                if self.rate.take(now) {
                    let caller = Caller {
                        ident: trigger.ident,
                        stream: self.stream,
                    };
                    Heard::Call(trigger, caller)
                } else {
                    self.say(&ToAgent::Refused(trigger.ident))?;
                    Heard::TooFast
                }
            }
            ToBroker::Terminated(params) => {
                if self.ports.end(params) {
                    Heard::Ended(params.port)
                } else {
                    Heard::EndOfNothing(params)
                }
            }
        }))
    }

    /// Makes the VM the service end of a call with `peer`. Returns the port, under which the stream must be available
    /// before what waits is sent.
    ///
    /// # Errors
    /// [`Failed`]; `leg` is dropped.
    pub fn serve(
        &mut self,
        peer: u32,
        command: CommandLine,
        streams: Streams,
        leg: L,
        now: Instant,
    ) -> Result<u32, Failed> {
        if !self.is_open() {
            return Err(Failed::NoAgent);
        }
        let port = self.take(peer, Port::Free, leg, now)?;
        let params = ExecParams { domain: peer, port };
        self.say(&match streams {
            Streams::Connected => ToAgent::Execute(params, command),
            Streams::None => ToAgent::JustExecute(params, command),
        })?;
        Ok(port)
    }

    /// Makes a caller in the VM the client end of a call with `peer`. Returns the port, as [`Session::serve`] does.
    ///
    /// # Errors
    /// [`Failed`]; `leg` is dropped.
    pub fn connect(
        &mut self,
        caller: &Caller,
        peer: u32,
        port: Port,
        leg: L,
        now: Instant,
    ) -> Result<u32, Failed> {
        if !self.waits(caller) {
            return Err(Failed::NoCaller);
        }
        let port = self.take(peer, port, leg, now)?;
        let params = ExecParams { domain: peer, port };
        self.say(&ToAgent::Connect(params, caller.ident))?;
        Ok(port)
    }

    /// Tells a caller that it was refused; one of an earlier stream is not there any more.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn refuse(&mut self, caller: &Caller) -> Result<(), Broken> {
        if self.waits(caller) {
            self.say(&ToAgent::Refused(caller.ident))?;
        }
        Ok(())
    }

    /// Whether a call with this other end has this port, over a link.
    pub fn is_in_use(&self, params: ExecParams) -> bool {
        self.ports.is_in_use(params)
    }

    /// What waits to be sent. Nothing of a stream that is broken.
    pub fn outgoing(&self) -> &[u8] {
        self.live()
            .map_or(&[], |control| control.outgoing.as_slice())
    }

    /// So many bytes of it were sent.
    pub fn sent(&mut self, count: usize) {
        if let Some(control) = &mut self.control {
            let count = count.min(control.outgoing.len());
            control.outgoing.drain(..count);
        }
    }

    /// Whether the agent may say more before it takes what waits for it.
    pub fn may_read(&self) -> bool {
        self.outgoing().len() < OUTGOING_HIGH
    }

    /// When the next offer must be taken back.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.ports.next_deadline()
    }

    /// Ports whose offers must be taken back now. They stay in use until the agent reports their end.
    pub fn overdue(&mut self, now: Instant) -> Vec<u32> {
        self.ports.overdue(now)
    }

    /// Calls that the VM takes part in.
    pub fn calls(&self) -> usize {
        self.ports.len()
    }

    /// Panics when something is not as it must always be, between any two of the methods above.
    pub fn verify_invariants(&self) {
        self.ports.verify_invariants();
        match &self.control {
            None => assert_eq!(self.ports.len(), 0, "calls without a control stream"),
            Some(control) => {
                assert!(control.broken || control.outgoing.len() <= MAX_OUTGOING);
                assert!(
                    self.ports.len() == 0 || control.decoder.version().is_some(),
                    "calls before hello"
                );
            }
        }
    }

    fn live(&self) -> Option<&Control> {
        self.control.as_ref().filter(|control| !control.broken)
    }

    fn waits(&self, caller: &Caller) -> bool {
        self.is_open() && caller.stream == self.stream
    }

    fn take(&mut self, peer: u32, port: Port, leg: L, now: Instant) -> Result<u32, Failed> {
        let taken = match (self.transport, port) {
            (Transport::Sockets, Port::Given(port)) => {
                self.ports.join(peer, port, leg).then_some(port)
            }
            (Transport::Sockets, Port::Free) => self.ports.meet(self.own, peer, leg),
            (Transport::Link, _) => self.ports.take(peer, now + OFFER_LIFE, leg),
        };
        taken.ok_or(Failed::NoPort)
    }

    fn say(&mut self, message: &ToAgent) -> Result<(), Broken> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let version = control.decoder.version().unwrap_or(Version::OLDEST);
        let encoded = message.encode(version, &mut control.outgoing);
        let said = match encoded {
            Ok(()) if control.outgoing.len() > MAX_OUTGOING => Err(Broken::Unread),
            Ok(()) => Ok(()),
            Err(malformed) => Err(malformed.into()),
        };
        control.broken |= said.is_err();
        said
    }
}
