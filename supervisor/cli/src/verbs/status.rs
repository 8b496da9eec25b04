//! `casemate status`

use casemate_api::Bus;
use serde::Serialize;

use crate::{failure::Failure, output, session};

/// Show which of Casemate's daemons run, without starting any
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write an object: version, supervisor, broker, compositor, mixer (booleans), vms, running, recording
    /// (names), sound_problem, runtime, policy_faults
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Status {
    version: u32,
    supervisor: bool,
    broker: bool,
    compositor: bool,
    /// Runs from the first VM on that has sound.
    mixer: bool,
    /// Absent while the supervisor does not run.
    vms: Option<usize>,
    running: Option<usize>,
    /// VMs that may record.
    recording: Option<Vec<String>>,
    /// Why VMs are silent, empty when nothing of that is known.
    sound_problem: Option<String>,
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
                "casemate-sound".to_owned(),
                match status.sound_problem.as_deref() {
                    None | Some("") => word(status.mixer),
                    Some(problem) => format!("{}: {problem}", word(status.mixer)),
                },
            ],
            [
                "VMs".to_owned(),
                format!("{} of {} run", count(status.running), count(status.vms)),
            ],
            ["sockets".to_owned(), status.runtime],
        ];
        for name in status.recording.into_iter().flatten() {
            rows.push(["records".to_owned(), name]);
        }
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
    let (list, sound) = match session::connect(Bus::Supervisor).await {
        Ok(connection) => {
            let supervisor = casemate_api::supervisor(&connection).await?;
            (
                Some(supervisor.list().await?),
                supervisor.sound().await.ok(),
            )
        }
        Err(_) => (None, None),
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
        mixer: sound.as_ref().is_some_and(|sound| sound.mixer),
        vms: list.as_ref().map(Vec::len),
        running: list
            .as_ref()
            .map(|list| list.iter().filter(|vm| vm.pid != 0).count()),
        recording: list.map(|list| {
            let recording = list.into_iter().filter(|vm| vm.recording);
            recording.map(|vm| vm.name).collect()
        }),
        sound_problem: sound.map(|sound| sound.problem),
        runtime: session::runtime().display().to_string(),
        policy_faults,
    })
}
