//! `casemate recording`

use clap::Subcommand;

use crate::{failure::Failure, session};

/// Let VMs record from the microphone, and take that back
///
/// A VM with audio = true sees a microphone, which is silent. A grant ends when it is taken back, and with the VM, the
/// mixer or the supervisor, whichever is first. `casemate status` lists the VMs that may record.
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Let a running VM record; no error when it may already
    Grant { vm: String },
    /// Take that back; when this returns nothing more is recorded. No error when the VM does not record
    Revoke { vm: String },
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let supervisor = session::supervisor().await?;
        match self {
            Self::Grant { vm } => supervisor.grant_recording(&vm).await?,
            Self::Revoke { vm } => supervisor.revoke_recording(&vm).await?,
        }
        Ok(())
    }
}
