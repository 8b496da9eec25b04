//! `casemate shutdown`

use super::each;
use crate::{failure::Failure, progress::Progress, session};

/// Power VMs off and wait until they are halted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Every VM that runs
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Seconds after which a VM that is still running is killed
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let supervisor = session::supervisor().await?;
        let mut names = self.names;
        if self.all {
            let list = supervisor.list().await?;
            names.extend(list.into_iter().filter(|vm| vm.pid != 0).map(|vm| vm.name));
            if names.is_empty() {
                return Ok(());
            }
        }
        let _progress = Progress::begin(&format!("shutting down {}", names.join(", ")));
        each(&names, |name| supervisor.shutdown(name, self.timeout)).await
    }
}
