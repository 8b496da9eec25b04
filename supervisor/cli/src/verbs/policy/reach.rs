//! `casemate policy reach`

use std::{collections::BTreeSet, process::ExitCode};

use casemate_policy::{Facts, Policy, Request, Verdict};
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

/// A service and an argument that no rule names: what the rules for every one say of them.
const ANY_SERVICE: &str = "*";
const ANY_ARGUMENT: &str = "*";

impl Args {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let policy = self.sources.policy()?;
        let facts = self.sources.facts().await?;
        let mut ways = ways(&policy, &facts);
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

fn ways(policy: &Policy, facts: &Facts) -> BTreeSet<Way> {
    let calls: BTreeSet<(&str, &str)> = policy
        .rules
        .iter()
        .flat_map(|rule| {
            let service = rule.service.as_deref().unwrap_or(ANY_SERVICE);
            let argument = rule.argument.as_deref().unwrap_or(ANY_ARGUMENT);
            [(service, argument), (service, ANY_ARGUMENT)]
        })
        .collect();
    let vms: Vec<&str> = facts.domains.keys().map(String::as_str).collect();
    let templates = facts
        .domains
        .iter()
        .filter(|(_, domain)| domain.template_for_dispvms);
    let disposables: Vec<String> = templates
        .map(|(name, _)| format!("@dispvm:{name}"))
        .collect();
    let targets = vms
        .iter()
        .copied()
        .chain(disposables.iter().map(String::as_str))
        .chain(["", "@dispvm", "dom0"]);
    let targets: BTreeSet<&str> = targets.collect();
    let mut ways = BTreeSet::new();
    for (service, argument) in calls {
        for source in &vms {
            for target in &targets {
                let request = Request {
                    source,
                    target,
                    service,
                    argument,
                };
                let decision = policy.decide(&request, facts);
                let result = decision.verdict.word();
                let reached = match decision.verdict {
                    Verdict::Deny(_) => Vec::new(),
                    Verdict::Allow { target, .. } => vec![target],
                    Verdict::Ask { targets, .. } => targets,
                };
                ways.extend(reached.into_iter().map(|target| Way {
                    source: (*source).to_owned(),
                    service: service.to_owned(),
                    argument: shown(argument),
                    target: target.to_string(),
                    result,
                }));
            }
        }
    }
    ways
}

/// The argument as a person writes it behind the service.
fn shown(argument: &str) -> String {
    match argument {
        ANY_ARGUMENT => String::new(),
        argument => argument.to_owned(),
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
