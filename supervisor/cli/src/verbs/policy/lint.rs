//! `casemate policy lint`

use std::process::ExitCode;

use serde::Serialize;

use crate::{
    failure::{Failure, Kind},
    output,
    verbs::policy::rules::Sources,
};

/// Check the rules: what cannot be read, and what can but probably does not do what was meant
///
/// Every problem is one line, FILE:LINE:COLUMN: what it is, what was meant. Exit code 0 when there is none, 1 otherwise.
/// Names and tags are looked up when there are facts, by --facts or from a running casemated.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: Sources,
    /// Only what cannot be read
    #[arg(long)]
    syntax_only: bool,
    /// Write an array of lines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Args {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let read = self.sources.read()?;
        let mut errors = read.faults;
        errors.extend(read.reading.errors.iter().map(ToString::to_string));
        let mut warnings = Vec::new();
        if !self.syntax_only {
            // Without facts the rest can still be said.
            let facts = match self.sources.named() {
                true => Some(self.sources.facts().await?),
                false => self.sources.running_facts().await,
            };
            let findings = read.reading.rules.lint(facts.as_ref());
            warnings.extend(findings.iter().map(ToString::to_string));
        }
        let clean = errors.is_empty() && warnings.is_empty();
        if self.json {
            output::json(&Report { errors, warnings })?;
        } else {
            for problem in errors.iter().chain(&warnings) {
                output::line(&crate::terminal::printable(problem))?;
            }
        }
        Ok(if clean {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(Kind::Failed.code())
        })
    }
}
