//! `casemate policy eval`

use std::{
    io::{self, BufRead, Write},
    process::ExitCode,
};

use casemate_policy::{Decision, Facts, Policy, Request, Verdict};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Kind},
    verbs::policy::rules::Sources,
};

/// Judge calls read from stdin, one JSON object a line
///
/// Each line is {"service","argument","source","target"}; the argument has its leading '+'. Each answer is one line of
/// JSON: result (allow, deny, ask), target, user, notify, autostart, targets, default_target, rule, reason. A line that
/// is no request is answered with {"error"}; the exit code is then 2, after all lines.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: Sources,
    /// Answers are always JSON; accepted for scripts
    #[arg(long)]
    json: bool,
}

/// A request as it is written.
#[derive(Deserialize)]
struct Asked {
    service: String,
    #[serde(default)]
    argument: Option<String>,
    source: String,
    #[serde(default)]
    target: Option<String>,
}

/// Where a rule stands.
#[derive(Serialize)]
pub(super) struct Place {
    file: String,
    line: u32,
}

/// An answer. These keys are a promise.
#[derive(Serialize)]
pub(super) struct Answer {
    pub(super) result: &'static str,
    pub(super) target: Option<String>,
    user: Option<String>,
    notify: bool,
    autostart: Option<bool>,
    targets: Vec<String>,
    default_target: Option<String>,
    pub(super) rule: Option<Place>,
    pub(super) reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Wrong {
    error: String,
}

impl From<Decision> for Answer {
    fn from(decision: Decision) -> Self {
        let mut answer = Self {
            result: decision.verdict.word(),
            target: None,
            user: None,
            notify: decision.notify,
            autostart: None,
            targets: Vec::new(),
            default_target: None,
            rule: decision.rule.map(|place| Place {
                file: place.file.to_string(),
                line: place.line,
            }),
            reason: None,
        };
        match decision.verdict {
            Verdict::Deny(denial) => answer.reason = Some(denial.word()),
            Verdict::Allow {
                target,
                user,
                autostart,
            } => {
                answer.target = Some(target.to_string());
                answer.user = user;
                answer.autostart = Some(autostart);
            }
            Verdict::Ask {
                targets,
                default,
                user,
                autostart,
            } => {
                answer.targets = targets.iter().map(ToString::to_string).collect();
                answer.targets.sort();
                answer.default_target = default.map(|default| default.to_string());
                answer.user = user;
                answer.autostart = Some(autostart);
            }
        }
        answer
    }
}

impl Args {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let policy = self.sources.policy()?;
        let facts = self.sources.facts().await?;
        let mut out = io::stdout().lock();
        let mut wrong = false;
        for line in io::stdin().lock().split(b'\n') {
            let line =
                line.map_err(|error| Failure::failed(format!("cannot read requests: {error}")))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let answer = match judge(&line, &policy, &facts) {
                Ok(answer) => serde_json::to_string(&answer)?,
                Err(error) => {
                    wrong = true;
                    serde_json::to_string(&Wrong { error })?
                }
            };
            out.write_all(answer.as_bytes())?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
        Ok(if wrong {
            ExitCode::from(Kind::Usage.code())
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn judge(line: &[u8], policy: &Policy, facts: &Facts) -> Result<Answer, String> {
    let asked: Asked =
        serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))?;
    let argument = asked.argument.unwrap_or_default();
    let argument = if argument.is_empty() { "+" } else { &argument };
    if !argument.starts_with('+') {
        return Err(format!("the argument '{argument}' must begin with '+'"));
    }
    let request = Request {
        source: &asked.source,
        target: asked.target.as_deref().unwrap_or_default(),
        service: &asked.service,
        argument,
    };
    Ok(policy.decide(&request, facts).into())
}
