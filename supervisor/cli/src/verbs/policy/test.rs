//! `casemate policy test`

use std::{path::PathBuf, process::ExitCode};

use casemate_policy::{Decision, Facts, Policy, Request, Verdict};

use crate::{
    failure::{Failure, Kind},
    output, terminal,
    verbs::policy::rules::{Sources, text},
};

/// Check that calls are decided as a file says; output is TAP
///
/// Each line of FILE is a call and what is expected of it: SOURCE SERVICE[+ARGUMENT] TARGET RESULT. TARGET may be
/// @default. RESULT is deny, ask, ask=NAME (NAME is among the choices), allow or allow=NAME (goes to NAME). Lines that
/// begin with # are comments. Exit code 0 when all are met, 1 otherwise, 2 when FILE cannot be understood.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File of expectations
    file: PathBuf,
    #[command(flatten)]
    sources: Sources,
}

struct Expectation<'a> {
    line: usize,
    source: &'a str,
    service: &'a str,
    argument: &'a str,
    target: &'a str,
    result: &'a str,
}

impl Args {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let text = text(&self.file).map_err(|error| Failure::new(Kind::NotFound, error))?;
        let expectations = parse(&text)
            .map_err(|error| Failure::usage(format!("{}:{error}", self.file.display())))?;
        let policy = self.sources.policy()?;
        let facts = self.sources.facts().await?;
        output::line("TAP version 13")?;
        output::line(&format!("1..{}", expectations.len()))?;
        let mut failed = false;
        for (number, expected) in (1..).zip(&expectations) {
            let decision = decide(expected, &policy, &facts);
            let call = format!(
                "{} {}{} {} {}",
                expected.source,
                expected.service,
                expected.argument,
                expected.target,
                expected.result
            );
            let call = terminal::printable(&call).replace('#', "_");
            if is_met(expected.result, &decision.verdict) {
                output::line(&format!("ok {number} - {call}"))?;
                continue;
            }
            failed = true;
            output::line(&format!("not ok {number} - {call}"))?;
            output::line(&format!("# {}:{}", self.file.display(), expected.line))?;
            let rule = decision
                .rule
                .map_or_else(|| "no rule".to_owned(), |rule| rule.to_string());
            output::line(&format!("# is {}, by {rule}", found(&decision.verdict)))?;
        }
        Ok(if failed {
            ExitCode::from(Kind::Failed.code())
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn parse(text: &str) -> Result<Vec<Expectation<'_>>, String> {
    let mut all = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let words: Vec<&str> = content.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            [source, service, target, result] => {
                let word = result.split('=').next().unwrap_or_default();
                if !["allow", "deny", "ask"].contains(&word) || (word == "deny" && *result != word)
                {
                    return Err(format!(
                        "{line}: '{result}' is not deny, ask, ask=NAME, allow or allow=NAME"
                    ));
                }
                let (service, argument) = match service.find('+') {
                    Some(at) => service.split_at(at),
                    None => (*service, "+"),
                };
                all.push(Expectation {
                    line,
                    source,
                    service,
                    argument,
                    target,
                    result,
                });
            }
            _ => {
                return Err(format!(
                    "{line}: a line is SOURCE SERVICE[+ARGUMENT] TARGET RESULT"
                ));
            }
        }
    }
    match all.is_empty() {
        true => Err("1: nothing is expected in this file".to_owned()),
        false => Ok(all),
    }
}

fn decide(expected: &Expectation<'_>, policy: &Policy, facts: &Facts) -> Decision {
    let request = Request {
        source: expected.source,
        target: expected.target,
        service: expected.service,
        argument: expected.argument,
    };
    policy.decide(&request, facts)
}

fn is_met(expected: &str, verdict: &Verdict) -> bool {
    let (word, place) = match expected.split_once('=') {
        Some((word, place)) => (word, Some(place)),
        None => (expected, None),
    };
    word == verdict.word()
        && place.is_none_or(|place| match verdict {
            Verdict::Deny(_) => false,
            Verdict::Allow { target, .. } => target.to_string() == place,
            Verdict::Ask { targets, .. } => {
                targets.iter().any(|target| target.to_string() == place)
            }
        })
}

fn found(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Deny(denial) => format!("deny ({})", denial.word()),
        Verdict::Allow { target, .. } => format!("allow={target}"),
        Verdict::Ask { targets, .. } => {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            format!("ask ({})", targets.join(", "))
        }
    }
}
