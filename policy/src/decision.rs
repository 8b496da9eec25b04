//! What is asked of the evaluator and what it answers.

use std::fmt;

use crate::{
    facts::Facts,
    rule::Place,
    token::{VmRef, Wish},
};

/// A call to be judged. The caller of the evaluator knows `source` from the connection, never from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Name of the calling VM, or `dom0`.
    pub source: &'a str,
    /// What it asked to reach; empty for the default.
    pub target: &'a str,
    /// The service, without argument.
    pub service: &'a str,
    /// The argument with its leading `+`; `+` alone for none.
    pub argument: &'a str,
}

/// One place that a call can go to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The admin domain.
    Admin,
    /// A new disposable of this template.
    Disposable {
        /// Name of the template.
        template: String,
    },
    /// A VM.
    Vm(String),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str(VmRef::ADMIN_NAME),
            Self::Disposable { template } => write!(f, "@dispvm:{template}"),
            Self::Vm(name) => f.write_str(name),
        }
    }
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denial {
    /// The target is a word that only rules may use.
    #[error("a call cannot ask for this target")]
    InvalidTarget,
    /// `@dispvm:NAME` where NAME is no template of disposables.
    #[error("no disposable can be made from this template")]
    NotADisposableTemplate,
    /// No rule matches.
    #[error("no rule allows the call")]
    NoRule,
    /// The rule says deny.
    #[error("a rule denies the call")]
    Rule,
    /// Allowed, but the caller named no target and the rule names none.
    #[error("a rule allows the call, but neither caller nor rule names a target that exists")]
    NoTarget,
    /// Allowed to the default disposable, and the caller has none.
    #[error("the caller has no default template of disposables")]
    NoDefaultDisposable,
    /// The target does not run and the rule forbids to start it.
    #[error("the target does not run and the rule does not let it be started")]
    Autostart,
    /// Source and target are one VM.
    #[error("a VM cannot call itself")]
    Loopback,
    /// Asking makes no sense: nothing could be chosen.
    #[error("a rule asks, but there is no target to choose")]
    NothingToAsk,
    /// The caller speaks for another VM, and is not the relay of it.
    #[error("the caller does not speak for the VM that it names")]
    NotARelay,
    /// There was no policy without a fault since the start.
    #[error("the policy has an error, and there was none without since the start")]
    NoPolicy,
}

impl Denial {
    /// One word for scripts, the same for ever.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::InvalidTarget => "invalid-target-token",
            Self::NotADisposableTemplate => "not-a-dispvm-template",
            Self::NoRule => "no-match",
            Self::Rule => "rule-deny",
            Self::NoTarget => "allow-without-target",
            Self::NoDefaultDisposable => "no-default-dispvm",
            Self::Autostart => "autostart-forbidden",
            Self::Loopback => "loopback",
            Self::NothingToAsk => "ask-without-targets",
            Self::NotARelay => "invalid-requested-source",
            Self::NoPolicy => "no-policy",
        }
    }
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Refused.
    Deny(Denial),
    /// Goes on.
    Allow {
        /// Where to.
        target: Destination,
        /// The user there, `None` for the default user.
        user: Option<String>,
        /// Whether a halted target is to be started.
        autostart: bool,
    },
    /// The person decides.
    Ask {
        /// What may be chosen: sorted, not empty.
        targets: Vec<Destination>,
        /// What is selected at first; one of `targets`.
        default: Option<Destination>,
        /// As in `Allow`.
        user: Option<String>,
        /// As in `Allow`.
        autostart: bool,
    },
}

/// The outcome and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The outcome.
    pub verdict: Verdict,
    /// The rule that decided; `None` when none matched or the request was refused before.
    pub rule: Option<Place>,
    /// Whether the person is to be told.
    pub notify: bool,
}

/// A caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party<'a> {
    /// The admin domain.
    Admin,
    /// A VM, or a name that no VM has.
    Vm(&'a str),
}

impl<'a> Party<'a> {
    /// A caller, whichever of its names it is called by.
    pub(crate) fn new(name: &'a str, facts: &'a Facts) -> Self {
        // Nearly every caller is called by its name: nothing has to be looked up.
        if !name.starts_with('@') && !name.starts_with("uuid:") && name != VmRef::ADMIN_NAME {
            return Self::Vm(name);
        }
        match Wish::requested(name) {
            Ok(Wish::Admin) => Self::Admin,
            Ok(Wish::Vm(vm)) => Self::Vm(facts.find(&vm).unwrap_or(name)),
            _ => Self::Vm(name),
        }
    }

    pub(crate) fn name(self) -> &'a str {
        match self {
            Self::Admin => VmRef::ADMIN_NAME,
            Self::Vm(name) => name,
        }
    }

    /// Whether a call to there would be one to itself.
    pub(crate) fn is(self, destination: &Destination) -> bool {
        match (self, destination) {
            (Self::Admin, Destination::Admin) => true,
            (Self::Vm(source), Destination::Vm(target)) => source == target,
            _ => false,
        }
    }
}

/// What a caller or a rule asked for, looked up: every name in it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requested<'f> {
    Default,
    Admin,
    Vm(&'f str),
    Disposable,
    DisposableOf(&'f str),
}
