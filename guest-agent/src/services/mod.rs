//! Services that the agent brings itself; the scripts in `/etc/qubes-rpc` are one line each and call these.

use clap::Subcommand;

mod appmenus;
mod clock;
mod disk;
pub(crate) mod filecopy;
mod handler;
mod identity;
mod image;
pub(crate) mod keys;
pub(crate) mod open_in_vm;
pub(crate) mod open_url;
pub(crate) mod pdf;
pub(crate) mod session;
pub(crate) mod start_app;
pub(crate) mod vm_exec;

use filecopy::FilecopyOptions;

/// A service by its RPC name.
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Receives files from another VM.
    #[command(name = "qubes.Filecopy")]
    Filecopy(FilecopyOptions),
    /// Receives one file, opens it, ends when its program ends, and gives it back when it was changed.
    #[command(name = "qubes.OpenInVM")]
    OpenInVm,
    /// Opens the address on stdin.
    #[command(name = "qubes.OpenURL")]
    OpenUrl,
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
    /// Lists the applications of this VM.
    #[command(name = "qubes.GetAppmenus")]
    GetAppmenus,
    /// Writes an image of this VM as plain pixels; its name comes on stdin.
    #[command(name = "qubes.GetImageRGBA")]
    GetImageRgba,
    /// Sets the clock to the date on stdin.
    #[command(name = "qubes.SetDateTime")]
    SetDateTime,
    /// Makes this VM another one than that whose memory it went on from: name, machine id, clock, random numbers.
    #[command(name = "casemate.Identity")]
    Identity,
    /// Lets another VM use the keys of this account's ssh agent.
    #[command(name = "qubes.SshAgent")]
    SshAgent,
    /// Lets another VM use the keys of this account's gpg agent.
    #[command(name = "qubes.Gpg")]
    Gpg,
    /// Turns the document on stdin into plain pixels.
    #[command(name = "qubes.PdfConvert")]
    PdfConvert,
    /// Grows the file system of a volume that has grown.
    #[command(name = "qubes.ResizeDisk")]
    ResizeDisk {
        /// `private`.
        volume: String,
    },
    /// Returns when windows can be shown.
    #[command(name = "qubes.WaitForSession")]
    WaitForSession,
}

impl Service {
    /// Runs the service on this process's standard streams and returns its exit status.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Filecopy(options) => filecopy::run(options),
            Self::OpenInVm => open_in_vm::run(),
            Self::OpenUrl => open_url::run(),
            Self::StartApp { name } => start_app::run(&name),
            Self::VmExec { command } => vm_exec::run(&command),
            Self::GetAppmenus => appmenus::run(),
            Self::GetImageRgba => image::run(),
            Self::SetDateTime => clock::set(),
            Self::Identity => identity::run(),
            Self::SshAgent => keys::ssh_agent(),
            Self::Gpg => keys::gpg_agent(),
            Self::PdfConvert => pdf::run(),
            Self::ResizeDisk { volume } => disk::run(&volume),
            Self::WaitForSession => {
                session::wait();
                Ok(0)
            }
        }
    }
}
