//! Services that the agent brings itself; the scripts in `/etc/qubes-rpc` are one line each and call these.

use std::path::PathBuf;

use clap::Subcommand;

pub(crate) mod filecopy;
pub(crate) mod open_in_vm;
pub(crate) mod session;
pub(crate) mod start_app;
pub(crate) mod vm_exec;

/// A service by its RPC name.
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Receives files from another VM.
    #[command(name = "qubes.Filecopy")]
    Filecopy {
        /// Where they land; ~/QubesIncoming/SOURCE when absent.
        #[arg(long)]
        incoming: Option<PathBuf>,
    },
    /// Receives one file, opens it, and ends when its program ends.
    #[command(name = "qubes.OpenInVM")]
    OpenInVm,
    /// Starts an installed application by the name of its desktop entry.
    #[command(name = "qubes.StartApp")]
    StartApp {
        /// The entry's name without `.desktop`.
        name: String,
    },
    /// Runs a command that comes as the call's argument: words joined by `+`, other bytes as `-XX`, `-` doubled.
    #[command(name = "qubes.VMExec")]
    VmExec {
        /// The encoded words.
        #[arg(allow_hyphen_values = true)]
        command: String,
    },
    /// Returns when windows can be shown.
    #[command(name = "qubes.WaitForSession")]
    WaitForSession,
}

impl Service {
    /// Runs the service on this process's standard streams and returns its exit status.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Filecopy { incoming } => filecopy::run(incoming),
            Self::OpenInVm => open_in_vm::run(),
            Self::StartApp { name } => start_app::run(&name),
            Self::VmExec { command } => vm_exec::run(&command),
            Self::WaitForSession => {
                session::wait();
                Ok(0)
            }
        }
    }
}
