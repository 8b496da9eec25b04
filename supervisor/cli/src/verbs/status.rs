//! `casemate status`

use casemate_api::Bus;
use serde::Serialize;

use crate::{failure::Failure, output, session};

/// Show which of Casemate's daemons run, without starting any
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write an object: version, supervisor, broker, compositor (booleans), vms, running, runtime,
    /// policy_faults
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Status {
    version: u32,
    supervisor: bool,
    broker: bool,
    compositor: bool,
    /// Absent while the supervisor does not run.
    vms: Option<usize>,
    running: Option<usize>,
    runtime: String,
    /// What is wrong with the policy files; absent while the broker does not run.
    policy_faults: Option<Vec<String>>,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let status = look().await?;
        if self.json {
            return output::json(&status);
        }
        let word = |runs: bool| if runs { "runs" } else { "does not run" }.to_owned();
        let count =
            |count: Option<usize>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        let mut rows = vec![
            ["casemated".to_owned(), word(status.supervisor)],
            ["casemate-qrexec".to_owned(), word(status.broker)],
            ["casemate-compositor".to_owned(), word(status.compositor)],
            [
                "VMs".to_owned(),
                format!("{} of {} run", count(status.running), count(status.vms)),
            ],
            ["sockets".to_owned(), status.runtime],
        ];
        match status.policy_faults {
            None => {}
            Some(faults) if faults.is_empty() => {
                rows.push(["policy".to_owned(), "without error".to_owned()]);
            }
            Some(faults) => {
                rows.extend(faults.into_iter().map(|fault| ["policy".to_owned(), fault]));
            }
        }
        output::table(["", ""], &rows)
    }
}

async fn look() -> Result<Status, Failure> {
    let list = match session::connect(Bus::Supervisor).await {
        Ok(connection) => Some(casemate_api::supervisor(&connection).await?.list().await?),
        Err(_) => None,
    };
    let broker = session::connect(Bus::Qrexec).await.ok();
    let policy_faults = match &broker {
        Some(connection) => casemate_api::broker(connection)
            .await?
            .policy_faults()
            .await
            .ok(),
        None => None,
    };
    Ok(Status {
        version: 1,
        supervisor: list.is_some(),
        broker: broker.is_some(),
        compositor: session::connect(Bus::Compositor).await.is_ok(),
        vms: list.as_ref().map(Vec::len),
        running: list.map(|list| list.iter().filter(|vm| vm.pid != 0).count()),
        runtime: session::runtime().display().to_string(),
        policy_faults,
    })
}
