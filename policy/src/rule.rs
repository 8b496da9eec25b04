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

/// Characters of a line at which fields begin, from 1; 0 where the line was made from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Of the source.
    pub source: u32,
    /// Of the target.
    pub target: u32,
    /// Of the action.
    pub action: u32,
}

/// One line of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub place: Place,
    /// Where its fields stand.
    pub at: Columns,
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
        self.service.as_deref().is_none_or(|own| own == service) && self.matches_argument(argument)
    }

    /// Whether the rule speaks about this argument of its service.
    pub(crate) fn matches_argument(&self, argument: &str) -> bool {
        self.argument.as_deref().is_none_or(|own| own == argument)
    }

    /// The `target=` of the rule.
    pub(crate) fn redirect(&self) -> Option<&Wish> {
        match &self.action {
            Action::Deny => None,
            Action::Allow { redirect, .. } | Action::Ask { redirect, .. } => redirect.as_ref(),
        }
    }
}

impl fmt::Display for Rule {
    /// As a line of a policy, with single spaces; what is the default is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = |text: &Option<String>| text.clone().unwrap_or_else(|| "*".to_owned());
        let (service, argument) = (any(&self.service), any(&self.argument));
        write!(f, "{service} {argument} {} {} ", self.source, self.target)?;
        f.write_str(self.action.word())?;
        let (user, autostart) = match &self.action {
            Action::Deny => (&None, true),
            Action::Allow {
                user, autostart, ..
            }
            | Action::Ask {
                user, autostart, ..
            } => (user, *autostart),
        };
        if let Some(wish) = self.redirect() {
            write!(f, " target={wish}")?;
        }
        if let Action::Ask {
            default_target: Some(wish),
            ..
        } = &self.action
        {
            write!(f, " default_target={wish}")?;
        }
        if let Some(user) = user {
            write!(f, " user={user}")?;
        }
        if !autostart {
            f.write_str(" autostart=no")?;
        }
        match (self.notify, self.action == Action::Deny) {
            (false, true) => f.write_str(" notify=no"),
            (true, false) => f.write_str(" notify=yes"),
            _ => Ok(()),
        }
    }
}

impl Action {
    /// The word in the rule.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow { .. } => "allow",
            Self::Ask { .. } => "ask",
        }
    }
}
