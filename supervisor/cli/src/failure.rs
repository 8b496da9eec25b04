//! Errors as a person and a script meet them: one line, and a documented exit code.

use std::{io, process::ExitCode};

use casemate_api::Error;

/// What kind of failure; the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    WrongState = 4,
    Denied = 5,
    Refused = 6,
    Busy = 7,
    NoResources = 8,
    TimedOut = 124,
    /// Casemate failed before the program in the VM ran.
    Before = 125,
    /// The reader of our output has gone: no error, nothing to say.
    BrokenPipe = 141,
    /// The VM or its agent went while the program ran.
    Lost = 255,
}

/// A failure of a verb.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    text: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(Kind::Failed, text)
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    /// Something about one of several things that a verb was given.
    pub(crate) fn about(self, what: &str) -> Self {
        Self {
            text: if self.text.contains(what) {
                self.text
            } else {
                format!("{what}: {}", self.text)
            },
            ..self
        }
    }

    /// The same failure, when the exit codes belong to a program in the VM.
    pub(crate) fn before_program(self) -> Self {
        let kind = match self.kind {
            Kind::TimedOut | Kind::Usage => self.kind,
            _ => Kind::Before,
        };
        Self { kind, ..self }
    }

    /// Says it, and turns it into an exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.kind != Kind::BrokenPipe {
            eprintln!("casemate: {}", self.text);
        }
        ExitCode::from(self.kind.code())
    }
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (kind, text) = match error {
            Error::Usage(text) => (Kind::Usage, text),
            Error::NotFound(text) => (Kind::NotFound, text),
            Error::WrongState(text) => (Kind::WrongState, text),
            Error::Denied(text) => (Kind::Denied, text),
            Error::Refused(text) => (Kind::Refused, text),
            Error::Busy(text) => (Kind::Busy, text),
            Error::NoResources(text) => (Kind::NoResources, text),
            Error::TimedOut(text) => (Kind::TimedOut, text),
            Error::Failed(text) => (Kind::Failed, text),
            Error::ZBus(error) => return error.into(),
        };
        Self { kind, text }
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        Self::failed(format!(
            "the connection to Casemate's daemons broke ({error}); `casemate status` shows which of them run"
        ))
    }
}

/// Errors of our own output; every other I/O is described where it happens.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::BrokenPipe, ""),
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::failed(format!("cannot write the output: {error}"))
    }
}
