//! qrexec frames and names, the same over any byte stream; does no I/O and allocates nothing larger than a frame.
//!
//! A frame is `type: u32, len: u32`, little endian, then `len` bytes. There are two kinds of stream:
//!
//! * The **control stream**, one per VM. The agent speaks first, with HELLO; the broker answers with HELLO. Then the
//!   agent sends [`ToBroker`] and the broker [`ToAgent`].
//! * A **data stream**, one per call. Both ends send HELLO at once, then [`DataFrame`]s: the client end STDIN, the
//!   service end STDOUT, STDERR and at last one EXIT_CODE. A frame of no bytes is the end of that direction.
//!
//! Both ends use the lower of the two versions ([`Version::negotiate`]). There is no authentication: who speaks is
//! known from the stream. The decoders refuse what the negotiated version does not have, as soon as the header
//! shows it; after an error a stream has no meaning any more and must be dropped.
#![deny(missing_docs)]

mod command;
mod control;
mod data;
mod end_call;
mod frame;
mod ident;
pub mod limits;
mod names;
mod params;

pub use command::{CommandLine, Execute, InvalidCommand, RequestedTarget, Work};
pub use control::{ControlDecoder, Message, ToAgent, ToBroker, Trigger};
pub use data::{DataDecoder, DataFrame};
pub use end_call::EndCall;
pub use frame::{FrameType, Header, Malformed, Version};
pub use ident::Ident;
pub use names::{InvalidService, ServiceCall, Target};
pub use params::ExecParams;
