//! `casemate policy explain`

use std::process::ExitCode;

use casemate_policy::{Denial, Request, Verdict};
use serde::Serialize;

use crate::{
    failure::{Failure, Kind},
    output, session, terminal,
    verbs::policy::{eval::Answer, rules::Sources},
};

/// Say which rule decides a call, why those before it do not, and what would change the answer
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The calling VM
    #[arg(required_unless_present = "last")]
    source: Option<String>,
    /// The service, with its argument as in qubes.Filecopy+ARGUMENT
    #[arg(required_unless_present = "last")]
    service: Option<String>,
    /// What is asked for; nothing is @default
    target: Option<String>,
    /// Explain the last call that was judged, by the rules of now
    #[arg(long, conflicts_with_all = ["source", "service", "target"])]
    last: bool,
    #[command(flatten)]
    sources: Sources,
    /// Write an object: result, target, reason, rule, passed, otherwise
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    answer: Answer,
    /// The rules before, each with why it did not match.
    passed: Vec<[String; 3]>,
    otherwise: Vec<String>,
}

impl Args {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let (source, service, target) = self.call().await?;
        let policy = self.sources.policy()?;
        let facts = self.sources.facts().await?;
        let (service, argument) = match service.find('+') {
            Some(at) => service.split_at(at),
            None => (service.as_str(), "+"),
        };
        let request = Request {
            source: &source,
            target: &target,
            service,
            argument,
        };
        let told = policy.explain(&request, &facts);
        let passed: Vec<[String; 3]> = told
            .passed
            .iter()
            .map(|passed| {
                let rule = passed.rule;
                [
                    rule.place.to_string(),
                    rule.to_string(),
                    passed.reason(&request),
                ]
            })
            .collect();
        if self.json {
            output::json(&Report {
                answer: told.decision.into(),
                passed,
                otherwise: told.otherwise,
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let say = |text: &str| output::line(&terminal::printable(text));
        let wanted = if target.is_empty() {
            "no target"
        } else {
            &target
        };
        say(&format!(
            "{source} calls {service}{argument} and asks for {wanted}"
        ))?;
        say(&format!("answer: {}", sentence(&told.decision.verdict)))?;
        match told.decided {
            Some(rule) => say(&format!("decided by {}: {rule}", rule.place))?,
            None if matches!(told.decision.verdict, Verdict::Deny(Denial::NoRule)) => {
                say("no rule matched; what no rule allows is denied")?;
            }
            None => say("denied before any rule was looked at")?,
        }
        if !passed.is_empty() {
            say("rules before it that did not match:")?;
            let heads = ["  RULE", "TEXT", "WHY NOT"];
            let rows: Vec<_> = passed
                .into_iter()
                .map(|[place, rule, why]| [format!("  {place}"), rule, why])
                .collect();
            output::table(heads, &rows)?;
        }
        for otherwise in &told.otherwise {
            say(otherwise)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Source, service with argument, target.
    async fn call(&self) -> Result<(String, String, String), Failure> {
        if self.last {
            let last = session::broker().await?.decisions(1).await?.pop();
            let last = last.ok_or_else(|| {
                Failure::new(
                    Kind::NotFound,
                    "no call was judged since the broker started",
                )
            })?;
            return Ok((last.source, last.service, last.requested));
        }
        let (Some(source), Some(service)) = (self.source.clone(), self.service.clone()) else {
            return Err(Failure::usage("name the calling VM and the service"));
        };
        Ok((source, service, self.target.clone().unwrap_or_default()))
    }
}

fn sentence(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Deny(denial) => format!("deny; {denial}"),
        Verdict::Allow { target, user, .. } => match user {
            Some(user) => format!("allow, in {target} as {user}"),
            None => format!("allow, in {target}"),
        },
        Verdict::Ask { targets, .. } => {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            format!("ask the person, who may choose {}", targets.join(", "))
        }
    }
}
