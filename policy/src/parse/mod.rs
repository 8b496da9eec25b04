//! From text to rules.

mod include;
mod line;

use std::fmt;

use crate::{
    files::{Files, PolicyFile},
    policy::Policy,
    token::InvalidToken,
};

/// What could be read of a policy, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The rules that could be read, in their order.
    pub rules: Policy,
    /// Everything that could not, in the order of reading.
    pub errors: Vec<PolicyError>,
}

impl Reading {
    /// Reads as much as can be read.
    pub fn new(top: &[PolicyFile], files: &impl Files) -> Self {
        let mut reading = Self::default();
        let mut budget = include::MAX_FILES;
        for file in top {
            include::file(file, files, &mut reading, &mut budget);
        }
        reading
    }

    /// The policy, if there is nothing wrong with it.
    ///
    /// # Errors
    /// The first [`PolicyError`].
    pub fn policy(self) -> Result<Policy, PolicyError> {
        match self.errors.into_iter().next() {
            None => Ok(self.rules),
            Some(error) => Err(error),
        }
    }
}

/// Where and why a policy cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The file, as a person would open it.
    pub file: String,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: u32,
    /// The character in the line, from 1; 0 when it is about the whole line.
    pub column: u32,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for PolicyError {}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Fewer fields than a rule has.
    #[error("a rule is 'service argument source target action', optionally followed by key=value")]
    Fields,
    /// Fewer fields than a rule of the old format has.
    #[error(
        "a rule behind !include-service is 'source target action', optionally followed by key=value"
    )]
    OldFields,
    /// A service with other characters.
    #[error("'{0}' is no service name: only letters, digits, '.', '_' and '-'")]
    Service(String),
    /// An argument that is neither `*` nor begins with `+`.
    #[error("the argument '{0}' must be '*' or begin with '+'")]
    Argument(String),
    /// An argument with other characters.
    #[error("the argument '{0}' may hold only letters, digits, '.', '_', '+' and '-'")]
    ArgumentCharacters(String),
    /// An argument for every service.
    #[error("a rule for every service cannot have an argument; write '*'")]
    ArgumentOfEveryService,
    /// A word for VMs that has no meaning in its place.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// Not one of the three.
    #[error("'{0}' is no action; the actions are allow, deny and ask")]
    Action(String),
    /// Something behind the action that is not `key=value`.
    #[error("'{0}' is not key=value; a comment must stand on a line of its own")]
    Parameter(String),
    /// A key that this action does not have.
    #[error("{action} has no '{key}='")]
    ParameterOfAction {
        /// The action.
        action: &'static str,
        /// The key.
        key: String,
    },
    /// A key twice.
    #[error("'{0}=' is given twice")]
    Duplicate(String),
    /// Neither yes nor no.
    #[error("'{key}=' is yes or no, not '{value}'")]
    YesNo {
        /// The key.
        key: String,
        /// What was written.
        value: String,
    },
    /// `allow` for `@default` alone leads nowhere.
    #[error("allow with target @default needs a target=")]
    AllowDefault,
    /// A word behind `!` that is no directive, or none that may stand here.
    #[error("'{0}' is no directive here")]
    Directive(String),
    /// A directive with too few or too many words.
    #[error("{0} takes another number of words")]
    DirectiveWords(String),
    /// Files that include each other, or too deeply.
    #[error("files are included more than {} deep", include::MAX_DEPTH)]
    TooDeep,
    /// Files that include each other so often that nobody waits for the end.
    #[error("more than {} files are read for this policy", include::MAX_FILES)]
    TooMany,
    /// A file that cannot be read.
    #[error("{0}")]
    Unreadable(String),
}
