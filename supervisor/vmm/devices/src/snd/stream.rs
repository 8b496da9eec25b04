//! The life of a stream (virtio 1.2, 5.14.6.6.1): which command may follow which, and what it sets off.
//!
//! ```text
//!            set            prepare           start
//!   Unset ---------> Set ------------> Prepared ----> Running
//!                     ^  <-- set ----   |   ^           |  ^
//!                 set |                 |   | prepare   |  | start
//!                     |        release  v   |     stop  v  |
//!                     +-------------- Released <----- Stopped
//!                                             release
//! ```
//!
//! Set may be repeated, and so may prepare. Everything else is refused and changes nothing.

use super::message::{Command, Status};
use super::parameters::Parameters;

/// Where a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stream {
    /// New: it has no parameters.
    #[default]
    Unset,
    /// It has parameters.
    Set(Parameters),
    /// The guest may queue I/O messages, which wait.
    Prepared(Parameters),
    /// They are played, or filled.
    Running(Parameters),
    /// They wait again.
    Stopped(Parameters),
    /// It has none.
    Released(Parameters),
}

/// What a command sets off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// I/O messages that wait are given back, whatever became of them.
    GiveBack,
    /// A run begins.
    Begin,
    /// It ends; messages keep waiting.
    End,
}

impl Stream {
    /// Takes a command.
    pub(super) fn take(&mut self, command: Command) -> Result<Effect, Status> {
        let (next, effect) = match (*self, command) {
            (
                Self::Unset | Self::Set(_) | Self::Prepared(_) | Self::Released(_),
                Command::SetParameters(parameters),
            ) => (Self::Set(parameters), Effect::GiveBack),
            (
                Self::Set(parameters) | Self::Prepared(parameters) | Self::Released(parameters),
                Command::Prepare,
            ) => (Self::Prepared(parameters), Effect::GiveBack),
            (Self::Prepared(parameters) | Self::Stopped(parameters), Command::Start) => {
                (Self::Running(parameters), Effect::Begin)
            }
            (Self::Running(parameters), Command::Stop) => (Self::Stopped(parameters), Effect::End),
            (Self::Prepared(parameters) | Self::Stopped(parameters), Command::Release) => {
                (Self::Released(parameters), Effect::GiveBack)
            }
            _ => return Err(Status::BadMessage),
        };
        *self = next;
        Ok(effect)
    }

    /// Its parameters, while the guest may queue I/O messages.
    pub(super) fn accepting(self) -> Option<Parameters> {
        match self {
            Self::Prepared(parameters) | Self::Running(parameters) | Self::Stopped(parameters) => {
                Some(parameters)
            }
            Self::Unset | Self::Set(_) | Self::Released(_) => None,
        }
    }

    /// Its parameters, while messages are played or filled.
    pub(super) fn running(self) -> Option<Parameters> {
        match self {
            Self::Running(parameters) => Some(parameters),
            _ => None,
        }
    }
}
