//! One rule, as parsed.

use std::{fmt, sync::Arc};

use crate::token::{Pattern, Wish};

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as a person would open it.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One line of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub place: Place,
    /// The service, `None` for `*`.
    pub service: Option<String>,
    /// The argument with its `+`, `None` for `*`.
    pub argument: Option<String>,
    /// Who may be calling.
    pub source: Pattern,
    /// What may have been asked for.
    pub target: Pattern,
    /// What then happens.
    pub action: Action,
    /// Whether the person is told.
    pub notify: bool,
}

/// What a rule does with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Refuse it.
    Deny,
    /// Let it go on.
    Allow {
        /// Go there, whatever was asked for.
        redirect: Option<Wish>,
        /// The user in the target, `None` for its default user.
        user: Option<String>,
        /// Whether a halted target is started.
        autostart: bool,
    },
    /// Ask the person.
    Ask {
        /// The only choice.
        redirect: Option<Wish>,
        /// The choice that is selected at first.
        default_target: Option<Wish>,
        /// As in `Allow`.
        user: Option<String>,
        /// As in `Allow`.
        autostart: bool,
    },
}

impl Rule {
    /// Whether the rule speaks about this service with this argument.
    pub(crate) fn matches_service(&self, service: &str, argument: &str) -> bool {
        self.service.as_deref().is_none_or(|own| own == service)
            && self.argument.as_deref().is_none_or(|own| own == argument)
    }

    /// The `target=` of the rule.
    pub(crate) fn redirect(&self) -> Option<&Wish> {
        match &self.action {
            Action::Deny => None,
            Action::Allow { redirect, .. } | Action::Ask { redirect, .. } => redirect.as_ref(),
        }
    }
}
