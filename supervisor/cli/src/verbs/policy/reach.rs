//! `casemate policy reach`

use std::{collections::BTreeSet, process::ExitCode};

use casemate_policy::ANY;
use serde::Serialize;

use crate::{failure::Failure, output, verbs::policy::rules::Sources};

/// Show which VM can reach which by which service
///
/// Services are those that rules name; what a rule for every service lets through is shown as '*'. An ask shows every
/// place that the person may choose.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: Sources,
    /// Only calls of this VM
    #[arg(long, value_name = "NAME")]
    from: Option<String>,
    /// Write a graph for Graphviz instead of a table
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// Write an array of objects: source, service, argument, target, result
    #[arg(long)]
    json: bool,
}

/// One way from one VM to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Way {
    source: String,
    service: String,
    argument: String,
    target: String,
    result: &'static str,
}

impl Args {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let policy = self.sources.policy()?;
        let facts = self.sources.facts().await?;
        let mut ways: BTreeSet<Way> = policy.reach(&facts).into_iter().map(Way::from).collect();
        if let Some(from) = &self.from {
            ways.retain(|way| way.source == *from);
        }
        if self.json {
            output::json(&ways)?;
        } else if self.dot {
            output::line(&dot(&ways))?;
        } else {
            let rows: Vec<_> = ways
                .into_iter()
                .map(|way| {
                    [
                        way.source,
                        way.service + &way.argument,
                        way.target,
                        way.result.to_owned(),
                    ]
                })
                .collect();
            output::table(["FROM", "SERVICE", "TO", "RESULT"], &rows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl From<casemate_policy::Way> for Way {
    fn from(way: casemate_policy::Way) -> Self {
        Self {
            source: way.source,
            service: way.service,
            argument: shown(&way.argument).to_owned(),
            target: way.target.to_string(),
            result: if way.asks { "ask" } else { "allow" },
        }
    }
}

/// The argument as a person writes it behind the service.
pub(super) fn shown(argument: &str) -> &str {
    match argument {
        ANY => "",
        argument => argument,
    }
}

fn dot(ways: &BTreeSet<Way>) -> String {
    let quoted = |text: &str| format!("{text:?}");
    let mut text = String::from("digraph policy {\n  rankdir=LR;\n");
    for way in ways {
        let label = quoted(&format!("{}{}", way.service, way.argument));
        let style = if way.result == "ask" {
            ", style=dashed"
        } else {
            ""
        };
        text += &format!(
            "  {} -> {} [label={label}{style}];\n",
            quoted(&way.source),
            quoted(&way.target)
        );
    }
    text + "}"
}
