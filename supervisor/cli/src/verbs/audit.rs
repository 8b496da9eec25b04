//! `casemate audit`

use std::time::SystemTime;

use casemate_api::Decision;

use crate::{failure::Failure, format, output, session};

/// Show which calls VMs made, what policy decided and by which rule; newest last
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
    /// Only calls of this VM or to it; dom0 for the host's own
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Only calls of this service, whatever its argument
    #[arg(long)]
    service: Option<String>,
    /// Only calls with this result
    #[arg(long, value_parser = ["allow", "deny", "ask-allowed", "ask-denied", "failed"])]
    result: Option<String>,
    /// Only calls of the last while: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    since: Option<u64>,
    /// Write an array of objects: time (seconds since 1970), source, requested, target, service, result, rule, reason
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let decisions = session::broker().await.map_err(|failure| {
            let log = session::state().join("audit.jsonl");
            Failure::failed(format!(
                "{failure}. Earlier decisions are in {}",
                log.display()
            ))
        })?;
        // The broker remembers so few that all of them are at hand.
        let mut decisions = decisions.decisions(u32::MAX).await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        decisions.retain(|decision| self.wants(decision, now));
        decisions.drain(..decisions.len().saturating_sub(self.limit));
        if self.json {
            return output::json(&decisions);
        }
        let rows: Vec<_> = decisions
            .into_iter()
            .map(|decision| {
                [
                    format::time(decision.time),
                    decision.source,
                    if decision.target.is_empty() {
                        decision.requested
                    } else {
                        decision.target
                    },
                    decision.service,
                    decision.result,
                    decision.rule,
                    decision.reason,
                ]
            })
            .collect();
        let heads = [
            "TIME (UTC)",
            "SOURCE",
            "TARGET",
            "SERVICE",
            "RESULT",
            "RULE",
            "REASON",
        ];
        output::table(heads, &rows)
    }

    fn wants(&self, decision: &Decision, now: u64) -> bool {
        let is = |wanted: &Option<String>, own: &[&str]| {
            wanted.as_deref().is_none_or(|wanted| own.contains(&wanted))
        };
        let service = decision.service.split('+').next().unwrap_or_default();
        is(
            &self.vm,
            &[&decision.source, &decision.target, &decision.requested],
        ) && is(&self.service, &[service, &decision.service])
            && is(&self.result, &[&decision.result])
            && self
                .since
                .is_none_or(|since| decision.time.saturating_add(since) >= now)
    }
}

/// Reads `90s`, `10m`, `2h`, `1d`.
fn seconds(text: &str) -> Result<u64, String> {
    let unit = |end: char| match end {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(24 * 3600),
        _ => None,
    };
    let factor = text.chars().last().and_then(unit);
    let number = text
        .get(..text.len().saturating_sub(1))
        .and_then(|number| number.parse::<u64>().ok());
    factor
        .zip(number)
        .and_then(|(factor, number)| number.checked_mul(factor))
        .ok_or_else(|| "a number and s, m, h or d, such as 10m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_keep_what_they_name() {
        let decision = Decision {
            time: 1000,
            source: "work".to_owned(),
            requested: String::new(),
            target: "vault".to_owned(),
            service: "qubes.Gpg+x".to_owned(),
            result: "allow".to_owned(),
            rule: String::new(),
            reason: String::new(),
        };
        let args = |vm: &str, service: &str, result: &str, since| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Args {
                limit: 50,
                vm: some(vm),
                service: some(service),
                result: some(result),
                since,
                json: false,
            }
        };
        for (args, expected) in [
            (args("", "", "", None), true),
            (args("vault", "qubes.Gpg", "allow", Some(100)), true),
            (args("work", "qubes.Gpg+x", "", None), true),
            (args("other", "", "", None), false),
            (args("", "qubes", "", None), false),
            (args("", "", "deny", None), false),
            (args("", "", "", Some(10)), false),
        ] {
            assert_eq!(args.wants(&decision, 1050), expected, "{args:?}");
        }
        assert_eq!(seconds("10m"), Ok(600));
        for wrong in [
            "",
            "10",
            "m",
            "-1s",
            "1w",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
