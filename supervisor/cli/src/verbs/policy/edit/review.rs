//! What a person sees before a text holds: what cannot be read, what was probably not meant, what is decided otherwise.

use casemate_policy::{Change, Facts};
use serde::Serialize;

use crate::{
    failure::Failure,
    output, terminal,
    verbs::policy::{
        edit::{changes, draft::Drafts},
        eval::Answer,
        reach::shown,
        rules::Read,
    },
};

/// A look at a new text.
pub(super) struct Review {
    files: Vec<String>,
    errors: Vec<String>,
    /// Errors of files that are not being edited.
    others: Vec<String>,
    warnings: Vec<String>,
    /// `None` when nothing is known of VMs.
    changes: Option<Vec<Change>>,
    rows: Vec<[String; 5]>,
}

/// The same for scripts.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    files: &'a [String],
    errors: Vec<&'a String>,
    warnings: &'a [String],
    changes: Option<Vec<Differs<'a>>>,
    replaced: bool,
}

#[derive(Serialize)]
struct Differs<'a> {
    source: &'a str,
    service: &'a str,
    argument: &'a str,
    target: &'a str,
    old: Answer,
    new: Answer,
}

impl Review {
    pub(super) fn new(drafts: &Drafts, before: &Read, after: &Read, facts: Option<&Facts>) -> Self {
        let files: Vec<String> = drafts
            .shown()
            .map(|path| path.display().to_string())
            .collect();
        let old_errors = &before.reading.errors;
        // What was wrong before elsewhere is no reason to keep this text out.
        let (others, errors): (Vec<_>, Vec<_>) = after
            .reading
            .errors
            .iter()
            .partition(|error| !files.contains(&error.file) && old_errors.contains(error));
        let faults = after.faults.iter();
        let (old_faults, faults): (Vec<_>, Vec<_>) =
            faults.partition(|fault| before.faults.contains(fault));
        let findings = after.reading.rules.lint(facts);
        let changes = facts.map(|facts| before.reading.rules.changes(&after.reading.rules, facts));
        let rows = match (&changes, facts) {
            (Some(changes), Some(facts)) => changes::rows(changes, facts),
            _ => Vec::new(),
        };
        Self {
            errors: faults
                .into_iter()
                .cloned()
                .chain(errors.into_iter().map(ToString::to_string))
                .collect(),
            others: old_faults
                .into_iter()
                .cloned()
                .chain(others.into_iter().map(ToString::to_string))
                .collect(),
            warnings: findings
                .iter()
                .filter(|finding| files.iter().any(|file| **file == *finding.place.file))
                .map(ToString::to_string)
                .collect(),
            files,
            changes,
            rows,
        }
    }

    /// Whether the text may take the place of the old one.
    pub(super) fn is_readable(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn show(&self) -> Result<(), Failure> {
        let say = |text: &str| output::line(&terminal::printable(text));
        for (kind, lines) in [
            ("error", &self.errors),
            ("error elsewhere, older", &self.others),
            ("warning", &self.warnings),
        ] {
            for line in lines {
                say(&format!("{kind}: {line}"))?;
            }
        }
        match (&self.changes, self.rows.as_slice()) {
            (None, _) => Ok(()),
            (Some(_), []) => say("no call between the VMs there are is decided otherwise"),
            (Some(changes), rows) => {
                output::table(["FROM", "SERVICE", "TO", "BEFORE", "AFTER"], rows)?;
                say(&format!("{} calls are decided otherwise", changes.len()))
            }
        }
    }

    pub(super) fn report(&self, replaced: bool) -> Report<'_> {
        let differs = |change: &'_ Change| -> (Answer, Answer) {
            (change.old.clone().into(), change.new.clone().into())
        };
        Report {
            files: &self.files,
            errors: self.errors.iter().chain(&self.others).collect(),
            warnings: &self.warnings,
            changes: self.changes.as_ref().map(|changes| {
                let each = changes.iter().map(|change| {
                    let (old, new) = differs(change);
                    Differs {
                        source: &change.source,
                        service: &change.service,
                        argument: shown(&change.argument),
                        target: &change.target,
                        old,
                        new,
                    }
                });
                each.collect()
            }),
            replaced,
        }
    }
}
