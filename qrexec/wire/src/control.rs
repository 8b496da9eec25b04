//! The messages of the control stream.

use std::marker::PhantomData;

use crate::{
    command::CommandLine,
    frame::{Buffer, FrameType, Malformed, Version, append, hello_number, padded},
    ident::Ident,
    limits::{SERVICE_FIELD_V2, TARGET_FIELD, TARGET_FIELD_V2},
    names::Target,
    params::ExecParams,
};

/// A VM wants to call a service. Nothing in it says who the VM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Whom a relay says it calls for; empty when it calls for itself. A claim, not an identity.
    pub claimed_source: Target,
    /// Whom it wants to reach.
    pub target: Target,
    /// How the answer names this call.
    pub ident: Ident,
    /// Service and argument, not yet checked: see [`crate::ServiceCall::sanitise`].
    pub service: Vec<u8>,
}

/// From the agent to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToBroker {
    /// The first message, with the agent's version.
    Hello(u32),
    /// A call.
    Trigger(Trigger),
    /// A data stream has ended.
    Terminated(ExecParams),
}

/// From the broker to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToAgent {
    /// The answer to the agent's HELLO, with the broker's version.
    Hello(u32),
    /// Run a command, connect to the port, be the service end.
    Execute(ExecParams, CommandLine),
    /// Run a command without streams; only its start is reported.
    JustExecute(ExecParams, CommandLine),
    /// The call of this ident was accepted: connect to the port, be the client end.
    Connect(ExecParams, Ident),
    /// The call of this ident was refused.
    Refused(Ident),
}

/// A message of one direction of the control stream: [`ToBroker`] or [`ToAgent`].
pub trait Message: Sized {
    /// Whether this direction has the type in this version.
    fn has(kind: FrameType, version: Version) -> bool;

    /// Reads a body whose length is one that the type allows.
    ///
    /// # Errors
    /// [`Malformed`] when a field is wrong.
    fn decode(kind: FrameType, body: &[u8]) -> Result<Self, Malformed>;

    /// Appends the message as a frame; on error `out` is as before.
    ///
    /// # Errors
    /// [`Malformed`] when this version cannot carry the message.
    fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Malformed>;
}

impl Message for ToBroker {
    fn has(kind: FrameType, version: Version) -> bool {
        match kind {
            FrameType::TriggerService => version.number() == 2,
            FrameType::TriggerService3 => version.number() >= 3,
            FrameType::TriggerService4 => version.number() >= 4,
            FrameType::ConnectionTerminated | FrameType::Hello => true,
            _ => false,
        }
    }

    fn decode(kind: FrameType, body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields { kind, body };
        match kind {
            FrameType::Hello => hello_number(body).map(Self::Hello),
            FrameType::ConnectionTerminated => fields.params().map(Self::Terminated),
            FrameType::TriggerService => {
                let service = padded(&fields.take::<SERVICE_FIELD_V2>()?)?.to_vec();
                Ok(Self::Trigger(Trigger {
                    claimed_source: Target::default(),
                    target: fields.target::<TARGET_FIELD_V2>()?,
                    ident: fields.ident()?,
                    service,
                }))
            }
            FrameType::TriggerService3 => Ok(Self::Trigger(Trigger {
                claimed_source: Target::default(),
                target: fields.target::<TARGET_FIELD>()?,
                ident: fields.ident()?,
                service: fields.closed()?.to_vec(),
            })),
            FrameType::TriggerService4 => Ok(Self::Trigger(Trigger {
                claimed_source: fields.target::<TARGET_FIELD>()?,
                target: fields.target::<TARGET_FIELD>()?,
                ident: fields.ident()?,
                service: fields.closed()?.to_vec(),
            })),
            other => Err(Malformed::Unexpected(other.number())),
        }
    }

    fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Hello(number) => append(out, FrameType::Hello, version, &[&number.to_le_bytes()]),
            Self::Terminated(params) => append(
                out,
                FrameType::ConnectionTerminated,
                version,
                &[&params.encode()],
            ),
            Self::Trigger(trigger) => trigger.encode(version, out),
        }
    }
}

impl Trigger {
    /// Writes the newest form that the version has.
    fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let Self {
            claimed_source,
            target,
            ident,
            service,
        } = self;
        match version.number() {
            0..=2 => append(
                out,
                FrameType::TriggerService,
                version,
                &[
                    &field::<SERVICE_FIELD_V2>(service)?,
                    &field::<TARGET_FIELD_V2>(target.as_str().as_bytes())?,
                    ident.field(),
                ],
            ),
            3 => append(
                out,
                FrameType::TriggerService3,
                version,
                &[
                    &field::<TARGET_FIELD>(target.as_str().as_bytes())?,
                    ident.field(),
                    service,
                    &[0],
                ],
            ),
            _ => append(
                out,
                FrameType::TriggerService4,
                version,
                &[
                    &field::<TARGET_FIELD>(claimed_source.as_str().as_bytes())?,
                    &field::<TARGET_FIELD>(target.as_str().as_bytes())?,
                    ident.field(),
                    service,
                    &[0],
                ],
            ),
        }
    }
}

impl Message for ToAgent {
    fn has(kind: FrameType, _: Version) -> bool {
        matches!(
            kind,
            FrameType::Hello
                | FrameType::ExecCmdline
                | FrameType::JustExec
                | FrameType::ServiceConnect
                | FrameType::ServiceRefused
        )
    }

    fn decode(kind: FrameType, body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields { kind, body };
        match kind {
            FrameType::Hello => hello_number(body).map(Self::Hello),
            FrameType::ExecCmdline => Ok(Self::Execute(fields.params()?, fields.command()?)),
            FrameType::JustExec => Ok(Self::JustExecute(fields.params()?, fields.command()?)),
            FrameType::ServiceConnect => Ok(Self::Connect(fields.params()?, fields.ident()?)),
            FrameType::ServiceRefused => fields.ident().map(Self::Refused),
            other => Err(Malformed::Unexpected(other.number())),
        }
    }

    fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Hello(number) => append(out, FrameType::Hello, version, &[&number.to_le_bytes()]),
            Self::Execute(params, command) => append(
                out,
                FrameType::ExecCmdline,
                version,
                &[&params.encode(), command.as_bytes(), &[0]],
            ),
            Self::JustExecute(params, command) => append(
                out,
                FrameType::JustExec,
                version,
                &[&params.encode(), command.as_bytes(), &[0]],
            ),
            Self::Connect(params, ident) => append(
                out,
                FrameType::ServiceConnect,
                version,
                &[&params.encode(), ident.field()],
            ),
            Self::Refused(ident) => {
                append(out, FrameType::ServiceRefused, version, &[ident.field()])
            }
        }
    }
}

/// What is left of a body.
struct Fields<'a> {
    kind: FrameType,
    body: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some((head, tail)) = self.body.split_first_chunk::<N>() else {
            return Err(Malformed::Length {
                kind: self.kind.number(),
                len: u32::try_from(self.body.len()).unwrap_or(u32::MAX),
            });
        };
        self.body = tail;
        Ok(*head)
    }

    fn params(&mut self) -> Result<ExecParams, Malformed> {
        self.take().map(ExecParams::decode)
    }

    fn ident(&mut self) -> Result<Ident, Malformed> {
        Ident::from_field(self.take()?)
    }

    fn target<const N: usize>(&mut self) -> Result<Target, Malformed> {
        Ok(Target::sanitise(padded(&self.take::<N>()?)?))
    }

    /// The rest, which a NUL closes. A NUL before that is the reader's to refuse.
    fn closed(&mut self) -> Result<&'a [u8], Malformed> {
        let (last, text) = self.body.split_last().ok_or(Malformed::Text)?;
        self.body = &[];
        if *last != 0 {
            return Err(Malformed::Text);
        }
        Ok(text)
    }

    fn command(&mut self) -> Result<CommandLine, Malformed> {
        CommandLine::new(self.closed()?)
    }
}

/// A text in a field of `N` bytes, of which the last is a NUL.
fn field<const N: usize>(text: &[u8]) -> Result<[u8; N], Malformed> {
    let mut field = [0; N];
    let (place, _) = field
        .split_at_mut_checked(text.len())
        .filter(|_| text.len() < N)
        .ok_or(Malformed::Text)?;
    place.copy_from_slice(text);
    Ok(field)
}

/// Finds messages in one direction of a control stream that arrives in pieces.
///
/// The first message must be a HELLO, which sets the version; a second one is refused.
#[derive(Debug)]
pub struct ControlDecoder<M> {
    buffer: Buffer,
    version: Option<Version>,
    message: PhantomData<M>,
}

impl<M> Default for ControlDecoder<M> {
    fn default() -> Self {
        Self {
            buffer: Buffer::default(),
            version: None,
            message: PhantomData,
        }
    }
}

impl<M: Message> ControlDecoder<M> {
    /// A decoder of a stream without HELLO, such as that between a local client and its agent.
    pub fn without_hello(version: Version) -> Self {
        Self {
            version: Some(version),
            ..Self::default()
        }
    }

    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.feed(bytes);
    }

    /// Whether everything that was fed was taken. An end of the stream at any other time cuts a message.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The negotiated version; `None` before HELLO.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next whole message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`Malformed`], also as soon as a header alone is wrong: a lying length is not waited for.
    pub fn take(&mut self) -> Result<Option<M>, Malformed> {
        let Some(version) = self.version else {
            let hello = |kind| kind == FrameType::Hello;
            let Some((kind, body)) = self.buffer.take(Version::OLDEST, hello)? else {
                return Ok(None);
            };
            self.version = Some(Version::negotiate(hello_number(body)?)?);
            return M::decode(kind, body).map(Some);
        };
        let expected = |kind| kind != FrameType::Hello && M::has(kind, version);
        match self.buffer.take(version, expected)? {
            Some((kind, body)) => M::decode(kind, body).map(Some),
            None => Ok(None),
        }
    }
}
