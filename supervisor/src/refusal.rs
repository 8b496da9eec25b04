//! Why something was not done: the kind decides the caller's exit code, the text says what, why and what next.

use casemate_api::Error;
use casemate_storage::StoreError;

/// The kinds of the bus error, without its transport variant, so that it can be kept and sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Usage,
    NotFound,
    WrongState,
    Denied,
    Refused,
    Busy,
    NoResources,
    TimedOut,
    Failed,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(Kind::Failed, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, text)
    }

    pub(crate) fn wrong_state(text: impl Into<String>) -> Self {
        Self::new(Kind::WrongState, text)
    }

    /// No VM of that name, with what to type next.
    pub(crate) fn no_vm(name: &str) -> Self {
        Self::not_found(format!(
            "there is no VM '{name}'; `casemate ls` lists those that exist"
        ))
    }

    /// Wraps an error of the file system or the kernel, telling lack of resources from the rest.
    pub(crate) fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        use rustix::io::Errno;
        let scarce = [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::NOMEM,
            Errno::MFILE,
            Errno::NFILE,
        ];
        let kind = match Errno::from_io_error(error) {
            Some(errno) if scarce.contains(&errno) => Kind::NoResources,
            _ => Kind::Failed,
        };
        Self::new(kind, format!("{what}: {error}"))
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::NoTemplate(_) | StoreError::NoVolume(_) => Kind::NotFound,
            StoreError::Exists(_) => Kind::WrongState,
            StoreError::Locked(_) => Kind::Busy,
            StoreError::NoSpace(_) => Kind::NoResources,
            _ => Kind::Failed,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<Error> for Refusal {
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
            Error::ZBus(error) => (Kind::Failed, error.to_string()),
        };
        Self { kind, text }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.text;
        match refusal.kind {
            Kind::Usage => Self::Usage(text),
            Kind::NotFound => Self::NotFound(text),
            Kind::WrongState => Self::WrongState(text),
            Kind::Denied => Self::Denied(text),
            Kind::Refused => Self::Refused(text),
            Kind::Busy => Self::Busy(text),
            Kind::NoResources => Self::NoResources(text),
            Kind::TimedOut => Self::TimedOut(text),
            Kind::Failed => Self::Failed(text),
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
