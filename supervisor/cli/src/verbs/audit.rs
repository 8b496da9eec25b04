//! `casemate audit`

use crate::{failure::Failure, format, output, session};

/// Show which calls VMs made, what policy decided and by which rule; newest last
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: u32,
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
        let decisions = decisions.decisions(self.limit).await?;
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
}
