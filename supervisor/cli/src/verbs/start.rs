//! `casemate start`

use super::each;
use crate::{failure::Failure, progress::Progress, session};

/// Start VMs and wait until their agents have reported
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(required = true)]
    names: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let supervisor = session::supervisor().await?;
        let _progress = Progress::begin(&format!("starting {}", self.names.join(", ")));
        each(&self.names, |name| supervisor.start(name)).await
    }
}
