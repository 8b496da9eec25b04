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
/// JSON: result (allow, deny, ask), target, user, notify, autostart, targets, default_target, rule, reason. A request may
/// have "requested_source", the remote VM that its source speaks for; an answer that leads to a remote VM has "relay",
/// where the call goes instead. A line that is no request is answered with {"error"}; the exit code is then 2, after all
/// lines.
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
    /// The remote VM that the source says it speaks for.
    #[serde(default)]
    requested_source: Option<String>,
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
    /// Only for a call to a remote VM that has a relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<Relay>,
}

/// Whom a call to a remote VM goes to in its place.
#[derive(Serialize)]
struct Relay {
    target: String,
    service: String,
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
            relay: None,
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
    let decision = match asked.requested_source.as_deref() {
        None | Some("") => policy.decide(&request, facts),
        Some(remote) => policy.decide_relayed(&request, remote, facts),
    };
    let via = match &decision.verdict {
        Verdict::Allow { target, .. } => facts.via(target, &request),
        _ => None,
    };
    let mut answer = Answer::from(decision);
    answer.relay = via.map(|via| Relay {
        target: via.target,
        service: via.service,
    });
    Ok(answer)
}
