//! `casemate call`

use casemate_api::{Grant, LiveCall};
use clap::Subcommand;
use serde::Serialize;

use crate::{failure::Failure, format, output, session};

/// List the calls between VMs, and of the host into VMs, that have not ended, or end one; list what you allowed for a
/// while, or take it back
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// List live calls, oldest first; how many bytes they carry is not known, for their data goes past the broker
    Ls {
        /// Write an array of objects: id, source, requested, target, service, state (asking, starting, running,
        /// ending), since (seconds since 1970), rule
        #[arg(long)]
        json: bool,
    },
    /// End a call: its caller sees a refusal (126) when it was waiting, and a lost call (255) when it was running
    ///
    /// Exit codes: 3 when no such call is live, 4 when its data goes past the broker over sockets of its own.
    Kill {
        /// Its number, as `casemate call ls` shows it
        id: u64,
    },
    /// List the calls that go on without a question because you answered one with "Allow 10 min", oldest first
    Grants {
        /// Write an array of objects: id, source, requested, target, service, left (seconds)
        #[arg(long)]
        json: bool,
    },
    /// Take back what you allowed for a while: the next such call is a question again; calls that run go on
    ///
    /// Exit code 3 when no such grant holds.
    Revoke {
        /// Its number, as `casemate call grants` shows it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<u64>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

/// A grant in JSON.
#[derive(Debug, Serialize)]
struct Granted {
    id: u64,
    source: String,
    requested: String,
    target: String,
    service: String,
    left: u64,
}

impl From<Grant> for Granted {
    fn from(grant: Grant) -> Self {
        Self {
            id: grant.id,
            source: grant.source,
            requested: grant.requested,
            target: grant.target,
            service: grant.service,
            left: grant.left,
        }
    }
}

/// A call in JSON. These keys are a promise; what the bus calls things may change.
#[derive(Debug, Serialize)]
struct Call {
    id: u64,
    source: String,
    requested: String,
    target: String,
    service: String,
    state: String,
    since: u64,
    rule: String,
}

impl From<LiveCall> for Call {
    fn from(call: LiveCall) -> Self {
        Self {
            id: call.id,
            source: call.source,
            requested: call.requested,
            target: call.target,
            service: call.service,
            state: call.state,
            since: call.since,
            rule: call.rule,
        }
    }
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let broker = session::broker().await?;
        match self {
            Self::Ls { json } => {
                let calls = broker.calls().await?.into_iter().map(Call::from);
                if json {
                    return output::json(&calls.collect::<Vec<_>>());
                }
                list(calls)
            }
            Self::Kill { id } => Ok(broker.kill_call(id).await?),
            Self::Grants { json } => {
                let grants = broker.grants().await?.into_iter().map(Granted::from);
                if json {
                    return output::json(&grants.collect::<Vec<_>>());
                }
                list_grants(grants)
            }
            Self::Revoke { id: Some(id), .. } => Ok(broker.revoke_grant(id).await?),
            Self::Revoke { id: None, .. } => {
                let count = broker.revoke_grants().await?;
                output::line(&format!("{count} taken back"))
            }
        }
    }
}

fn list(calls: impl Iterator<Item = Call>) -> Result<(), Failure> {
    let rows: Vec<_> = calls
        .map(|call| {
            let target = if call.target.is_empty() {
                call.requested
            } else {
                call.target
            };
            [
                call.id.to_string(),
                call.source,
                target,
                call.service,
                call.state,
                format::time(call.since),
                call.rule,
            ]
        })
        .collect();
    let heads = [
        "ID",
        "SOURCE",
        "TARGET",
        "SERVICE",
        "STATE",
        "SINCE (UTC)",
        "RULE",
    ];
    output::table(heads, &rows)
}

fn list_grants(grants: impl Iterator<Item = Granted>) -> Result<(), Failure> {
    let rows: Vec<_> = grants
        .map(|grant| {
            [
                grant.id.to_string(),
                grant.source,
                grant.requested,
                grant.target,
                grant.service,
                format!("{} min {:02} s", grant.left / 60, grant.left % 60),
            ]
        })
        .collect();
    output::table(
        ["ID", "SOURCE", "ASKS FOR", "TARGET", "SERVICE", "LEFT"],
        &rows,
    )
}
