//! `casemate audit`

use std::{collections::VecDeque, io::Write, path::PathBuf, time::SystemTime};

use casemate_api::Decision;

use crate::{audit_log::AuditLog, failure::Failure, format, output, session};

/// Lines of a table that get columns of one width. More are shown as they come, so that a log of any length can be.
const PAGE: usize = 1000;

const HEADS: [&str; 7] = [
    "TIME (UTC)",
    "SOURCE",
    "TARGET",
    "SERVICE",
    "RESULT",
    "RULE",
    "REASON",
];

/// Show which calls VMs made, what policy decided and by which rule; newest last
///
/// Reads the broker's log on disk, with the files that it has put aside: up to 80 MiB of decisions. The broker need not
/// run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many, the last ones
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Only calls of this VM or to it; dom0 for the host's own
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Only calls of this service, whatever its argument
    #[arg(long)]
    service: Option<String>,
    /// Only calls with this result
    #[arg(long, value_parser = ["allow", "deny", "ask-allowed", "ask-denied", "granted", "killed", "failed"])]
    result: Option<String>,
    /// Only calls of the last while: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    since: Option<u64>,
    /// Only calls that are at least so old
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    until: Option<u64>,
    /// Directory of the log, such as that of a broker that is alone; Casemate's own when left out
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Write an array of objects: time (seconds since 1970), source, requested, target, service, result, rule, reason
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let state = self.log.clone().unwrap_or_else(session::state);
        let unread = |error: std::io::Error| {
            Failure::failed(format!(
                "the audit log in {} cannot be read: {error}",
                state.display()
            ))
        };
        let mut log = AuditLog::open(&state).map_err(unread)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let mut show = Show::new(self.json);
        let mut last = VecDeque::new();
        while let Some(decision) = log.next().map_err(unread)? {
            if !self.wants(&decision, now) {
                continue;
            }
            if self.all {
                show.one(decision)?;
                continue;
            }
            if last.len() >= self.limit {
                last.pop_front();
            }
            if last.len() < self.limit {
                last.push_back(decision);
            }
        }
        for decision in last {
            show.one(decision)?;
        }
        show.end()?;
        if log.unreadable() > 0 {
            eprintln!(
                "casemate: {} lines of the audit log are no decisions and were passed over",
                log.unreadable()
            );
        }
        Ok(())
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
            && self
                .until
                .is_none_or(|until| decision.time.saturating_add(until) <= now)
    }
}

/// Decisions on their way out, few of them in memory at a time.
struct Show {
    json: bool,
    /// Of a table: what waits for its page to be full.
    page: Vec<[String; 7]>,
    pages: usize,
    shown: usize,
}

impl Show {
    fn new(json: bool) -> Self {
        Self {
            json,
            page: Vec::new(),
            pages: 0,
            shown: 0,
        }
    }

    fn one(&mut self, decision: Decision) -> Result<(), Failure> {
        if self.json {
            let mut out = std::io::stdout().lock();
            out.write_all(if self.shown == 0 { b"[\n  " } else { b",\n  " })?;
            self.shown += 1;
            return Ok(serde_json::to_writer(&mut out, &decision)?);
        }
        self.page.push([
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
        ]);
        if self.page.len() >= PAGE {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let heads = if self.pages == 0 { HEADS } else { [""; 7] };
        self.pages += 1;
        output::table(heads, &std::mem::take(&mut self.page))
    }

    fn end(mut self) -> Result<(), Failure> {
        if self.json {
            let mut out = std::io::stdout().lock();
            out.write_all(if self.shown == 0 { b"[]\n" } else { b"\n]\n" })?;
            return Ok(out.flush()?);
        }
        if !self.page.is_empty() || self.pages == 0 {
            self.turn()?;
        }
        Ok(())
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
        let args = |vm: &str, service: &str, result: &str, since, until| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Args {
                limit: 50,
                all: false,
                log: None,
                until,
                vm: some(vm),
                service: some(service),
                result: some(result),
                since,
                json: false,
            }
        };
        for (args, expected) in [
            (args("", "", "", None, None), true),
            (args("vault", "qubes.Gpg", "allow", Some(100), None), true),
            (args("work", "qubes.Gpg+x", "", None, None), true),
            (args("other", "", "", None, None), false),
            (args("", "qubes", "", None, None), false),
            (args("", "", "deny", None, None), false),
            (args("", "", "", Some(10), None), false),
            (args("", "", "", Some(100), Some(50)), true),
            (args("", "", "", None, Some(51)), false),
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
