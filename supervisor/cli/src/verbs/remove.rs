//! `casemate remove`

use std::io::{IsTerminal, stdin};

use super::each;
use crate::{
    failure::{Failure, Kind},
    session,
};

/// Delete VMs with everything in their home directories; they must be halted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(required = true)]
    names: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        if !self.yes {
            confirm(&self.names.join(", "))?;
        }
        let supervisor = session::supervisor().await?;
        each(&self.names, |name| supervisor.remove(name)).await
    }
}

fn confirm(names: &str) -> Result<(), Failure> {
    if !stdin().is_terminal() {
        return Err(Failure::usage(
            "removing deletes data for good; say --yes where nobody can be asked",
        ));
    }
    eprint!("Delete {names} with all data? [y/N] ");
    let mut answer = String::new();
    let read = stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(Kind::Refused, "nothing was deleted"))
    }
}
