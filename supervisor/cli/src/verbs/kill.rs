//! `casemate kill`

use super::each;
use crate::{failure::Failure, session};

/// End VMs at once, as if the power had failed; a disposable is deleted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(required = true)]
    names: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let supervisor = session::supervisor().await?;
        each(&self.names, |name| supervisor.kill(name)).await
    }
}
