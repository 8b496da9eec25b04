//! A question as it is shown: checked names, known labels, at least one target.

use casemate_api::{AskTarget, Question as Asked};
use casemate_vm::Label;

use crate::scene::sanitise;

/// Most targets of one question: more than a person could choose from.
const MAX_TARGETS: usize = 256;

/// A VM as a question shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    /// As it is drawn.
    pub(crate) name: String,
    /// As the asker wrote it; goes back in the answer.
    pub(crate) exact: String,
    pub(crate) label: Label,
}

/// A checked question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) source: Party,
    pub(crate) service: String,
    /// Without its `+`; empty for none.
    pub(crate) argument: String,
    pub(crate) targets: Vec<Party>,
    /// Index of the preselected target.
    pub(crate) default: Option<usize>,
}

/// Why a question cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadQuestion {
    #[error("the question about '{0}' names a label that does not exist")]
    Label(String),
    #[error("a question needs 1 to {MAX_TARGETS} targets, this one has {0}")]
    Targets(usize),
}

impl TryFrom<AskTarget> for Party {
    type Error = BadQuestion;

    fn try_from(target: AskTarget) -> Result<Self, BadQuestion> {
        let name = sanitise::title(&target.name);
        let label = target
            .label
            .parse()
            .map_err(|_| BadQuestion::Label(name.clone()))?;
        Ok(Self {
            name,
            exact: target.name,
            label,
        })
    }
}

impl TryFrom<Asked> for Question {
    type Error = BadQuestion;

    fn try_from(asked: Asked) -> Result<Self, BadQuestion> {
        let count = asked.targets.len();
        if count == 0 || count > MAX_TARGETS {
            return Err(BadQuestion::Targets(count));
        }
        let targets = asked
            .targets
            .into_iter()
            .map(Party::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        let default = targets
            .iter()
            .position(|target| target.exact == asked.default_target);
        let argument = asked.argument.strip_prefix('+').unwrap_or(&asked.argument);
        Ok(Self {
            source: asked.source.try_into()?,
            service: sanitise::title(&asked.service),
            argument: sanitise::title(argument),
            targets,
            default,
        })
    }
}
