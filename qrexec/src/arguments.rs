//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Judges and connects the calls between VMs. Started by casemated.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// Directory of the sockets of Casemate.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime: PathBuf,
    /// Directory of policy files, strongest first; may be given several times.
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) policy: Vec<PathBuf>,
    /// Directory of the audit log.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
}
