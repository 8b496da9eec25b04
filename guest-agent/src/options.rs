//! The command lines: subcommands of `casemate-agent`, and the names of the reference by which it may be called.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use casemate_filecopy::Choice;
use clap::{Args, Parser, Subcommand};

use crate::{
    boot,
    rpc::{
        account,
        control::Calls,
        local,
        settings::{Settings, split},
        transport::Transport,
        vchan::Vchan,
    },
    services::{Service, filecopy::status, keys},
    tools::{
        client::{self, CallOptions},
        open, pdf, qvm,
    },
};

/// Casemate's agent in a VM.
#[derive(Debug, Parser)]
#[command(
    name = "casemate-agent",
    version,
    about,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
pub(crate) struct Options {
    #[command(flatten)]
    daemon: DaemonOptions,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// How the agent serves; all have defaults for a VM.
#[derive(Debug, Args)]
pub(crate) struct DaemonOptions {
    /// Unix sockets DIR/vchan.SERVER.CLIENT.PORT.sock instead of vsock.
    #[arg(long, value_name = "DIR", requires = "domain")]
    vchan_dir: Option<PathBuf>,
    /// This VM's domain number among those sockets.
    #[arg(long, value_name = "ID", requires = "vchan_dir")]
    domain: Option<u32>,
    /// Unix sockets DIR/PORT.sock of the host instead of vsock, for tests.
    #[arg(long, value_name = "DIR", conflicts_with = "vchan_dir")]
    connect_dir: Option<PathBuf>,
    /// Socket for programs of this VM.
    #[arg(long, alias = "socket", value_name = "PATH", default_value = local::SOCKET)]
    agent_socket: PathBuf,
    /// Directories of services, first match wins; QREXEC_SERVICE_PATH or the usual ones when absent.
    #[arg(long, value_name = "DIR:DIR")]
    rpc_path: Option<String>,
    /// Directories of their configurations; QUBES_RPC_CONFIG_PATH or the usual ones when absent.
    #[arg(long, value_name = "DIR:DIR")]
    rpc_config_path: Option<String>,
    /// Account that DEFAULT stands for.
    #[arg(long, value_name = "NAME", default_value = account::DEFAULT_USER)]
    user: String,
}

impl DaemonOptions {
    fn settings(self) -> Settings {
        let transport = match (self.vchan_dir.zip(self.domain), self.connect_dir) {
            (Some((dir, domain)), _) => Transport::Vchan(Vchan::new(dir, domain)),
            (None, Some(dir)) => Transport::Directory(dir),
            (None, None) => Transport::Vsock,
        };
        let mut settings = Settings::new(transport, self.agent_socket);
        if let Some(path) = self.rpc_path {
            settings.services = split(&path);
        }
        if let Some(path) = self.rpc_config_path {
            settings.configs = split(&path);
        }
        settings.user = self.user;
        settings
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serves calls of the host and of other VMs; never returns.
    Daemon(DaemonOptions),
    /// Sets this VM's name from the kernel command line.
    Identity,
    /// Formats a new private volume and mounts it on /rw and /home.
    MountPrivate,
    /// Enables the window memory and gives it to an account.
    WindowMemory {
        #[arg(long, default_value = account::DEFAULT_USER)]
        user: String,
    },
    /// Runs one of the services that come with Casemate, on standard streams.
    Service {
        #[command(subcommand)]
        service: Service,
    },
    /// Lists the copies that are coming into this account, with bytes, rate and what is left of the present file.
    Incoming {
        /// As JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Sends files as a copy stream on stdout.
    #[command(hide = true)]
    SendFiles {
        #[arg(long)]
        quiet: bool,
        #[arg(long)]
        ignore_symlinks: bool,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Sends a document on stdout, makes a plain one of the pages on stdin.
    #[command(hide = true)]
    PdfPages { file: PathBuf },
    /// Listens where programs look for an agent of keys and makes a call of each connection.
    KeysProxy {
        /// Where to listen, such as $SSH_AUTH_SOCK.
        #[arg(long, value_name = "PATH")]
        listen: PathBuf,
        /// VM with the keys.
        #[arg(long, default_value = "@default")]
        target: String,
        /// qubes.SshAgent or qubes.Gpg.
        service: String,
    },
    /// Makes a plain PDF of one that nobody trusts, drawn in a disposable.
    #[command(name = "qvm-convert-pdf")]
    ConvertPdf { file: PathBuf },
    /// Calls a service in another VM; exit code 126 when refused.
    #[command(name = "qrexec-client-vm")]
    ClientVm {
        #[command(flatten)]
        options: CallOptions,
        /// VM, or a keyword such as @default or @dispvm.
        target: String,
        /// SERVICE or SERVICE+ARGUMENT.
        service: String,
        /// Program whose stdout is the call's input and whose stdin is its output.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
    /// Copies files to a VM that the host's prompt asks for.
    #[command(name = "qvm-copy")]
    Copy {
        /// Show no progress.
        #[arg(long)]
        without_progress: bool,
        /// Leave out symbolic links.
        #[arg(long)]
        ignore_symlinks: bool,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Moves files to a VM that the host's prompt asks for.
    #[command(name = "qvm-move")]
    Move {
        /// Show no progress.
        #[arg(long)]
        without_progress: bool,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Copies files to a named VM.
    #[command(name = "qvm-copy-to-vm")]
    CopyToVm {
        /// Show no progress.
        #[arg(long)]
        without_progress: bool,
        target: String,
        /// Leave out symbolic links.
        #[arg(long)]
        ignore_symlinks: bool,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Moves files to a named VM.
    #[command(name = "qvm-move-to-vm")]
    MoveToVm {
        /// Show no progress.
        #[arg(long)]
        without_progress: bool,
        target: String,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Opens a file or an address in another VM; a file that is changed there comes back.
    #[command(name = "qvm-open-in-vm")]
    OpenInVm {
        /// Only look: nothing comes back.
        #[arg(long)]
        view_only: bool,
        target: String,
        /// File, or an address with http:// or https://.
        #[arg(value_name = "FILE")]
        what: PathBuf,
    },
    /// Opens a file or an address in a fresh disposable; a file that is changed there comes back.
    #[command(name = "qvm-open-in-dvm")]
    OpenInDvm {
        /// Only look: nothing comes back.
        #[arg(long)]
        view_only: bool,
        /// File, or an address with http:// or https://.
        #[arg(value_name = "FILE")]
        what: PathBuf,
    },
    /// Sends a file to be opened on stdout, takes it back on stdin.
    #[command(hide = true)]
    SendToOpen {
        #[arg(long)]
        view_only: bool,
        file: PathBuf,
    },
    /// Sends an address to be opened on stdout.
    #[command(hide = true)]
    SendAddress { url: String },
    /// Runs a shell line in another VM.
    #[command(name = "qvm-run-vm")]
    RunVm {
        /// In a fresh disposable; the first word is the command then.
        #[arg(long)]
        dispvm: bool,
        /// Without waiting for the session.
        #[arg(short = 'G', long)]
        no_gui: bool,
        /// Wait for the session first.
        #[arg(short = 'g', long, conflicts_with = "no_gui")]
        gui: bool,
        /// VM, then a shell line, or a command and its arguments.
        #[arg(required = true, trailing_var_arg = true, value_name = "VM COMMAND")]
        words: Vec<String>,
    },
}

/// Names by which the program may be called directly.
const NAMES: &[&str] = &[
    "qrexec-client-vm",
    "qvm-copy",
    "qvm-move",
    "qvm-copy-to-vm",
    "qvm-move-to-vm",
    "qvm-open-in-vm",
    "qvm-open-in-dvm",
    "qvm-run-vm",
    "qvm-convert-pdf",
];

/// Exit code of a wrong command line.
const USAGE: u8 = 2;

/// Reads the command line.
///
/// # Errors
/// The exit status of one that is wrong, or that only asks for help; the person has been told.
pub(crate) fn parse() -> Result<Options, u8> {
    let arguments = with_subcommand(env::args_os().collect());
    Options::try_parse_from(arguments).map_err(|error| {
        let text = error.render().to_string();
        if error.use_stderr() {
            // One line, though what is missing and how to use it stand on several.
            let mut paragraphs = text
                .split("\n\n")
                .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
            let what = paragraphs.next().unwrap_or_default();
            let usage = paragraphs.find(|paragraph| paragraph.starts_with("Usage:"));
            let _ = writeln!(io::stderr(), "{what}; {}", usage.unwrap_or_default());
            USAGE
        } else {
            let _ = write!(io::stdout(), "{text}");
            0
        }
    })
}

/// `qvm-copy x` is `casemate-agent qvm-copy x`.
fn with_subcommand(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments
        .first()
        .and_then(|first| first.to_str()?.rsplit('/').next().map(str::to_owned));
    if let Some(name) = name.filter(|name| NAMES.contains(&name.as_str())) {
        arguments.insert(1, name.into());
    }
    arguments
}

impl Options {
    /// The exit status of a failure of ours: a call's own codes must not be mistaken for it.
    pub(crate) fn failure(&self) -> u8 {
        match self.verb {
            Some(Verb::ClientVm { .. } | Verb::RunVm { .. }) => 125,
            _ => 1,
        }
    }

    /// Does what was asked; the number is the exit status.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let Some(verb) = self.verb else {
            return daemon(self.daemon);
        };
        match verb {
            Verb::Daemon(options) => daemon(options),
            Verb::Identity => boot::identity::run().map(|()| 0),
            Verb::MountPrivate => boot::private::run().map(|()| 0),
            Verb::WindowMemory { user } => boot::window_memory::run(&user).map(|()| 0),
            Verb::Service { service } => service.run(),
            Verb::Incoming { json } => status::list(json),
            Verb::PdfPages { file } => pdf::pages(&file),
            Verb::KeysProxy {
                listen,
                target,
                service,
            } => keys::proxy(&listen, &target, &service),
            Verb::ConvertPdf { file } => pdf::convert(&file),
            Verb::SendFiles {
                files,
                quiet,
                ignore_symlinks,
            } => {
                let choice = Choice {
                    ignore_links: ignore_symlinks,
                };
                qvm::send_files(&files, choice, quiet)
            }
            Verb::ClientVm {
                options,
                target,
                service,
                program,
            } => client::call(&options, &target, &service, &program),
            Verb::Copy {
                files,
                without_progress,
                ignore_symlinks,
            } => qvm::copy("@default", &files, without_progress, ignore_symlinks),
            Verb::Move {
                files,
                without_progress,
            } => qvm::move_away("@default", &files, without_progress),
            Verb::CopyToVm {
                target,
                files,
                without_progress,
                ignore_symlinks,
            } => qvm::copy(&target, &files, without_progress, ignore_symlinks),
            Verb::MoveToVm {
                target,
                files,
                without_progress,
            } => qvm::move_away(&target, &files, without_progress),
            Verb::OpenInVm {
                view_only,
                target,
                what,
            } => open::open(&target, &what, view_only),
            Verb::OpenInDvm { view_only, what } => open::open("@dispvm", &what, view_only),
            Verb::SendToOpen { view_only, file } => open::send_to_open(&file, view_only),
            Verb::SendAddress { url } => open::send_address(&url),
            Verb::RunVm {
                dispvm, gui, words, ..
            } => qvm::run(dispvm, gui, &words),
        }
    }
}

fn daemon(options: DaemonOptions) -> anyhow::Result<u8> {
    let settings = options.settings();
    let socket = settings.agent_socket.clone();
    let calls = Calls::new(settings);
    calls.take_signals().context("cannot take signals")?;
    local::listen(&socket, std::sync::Arc::clone(&calls))?;
    calls.run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn names_become_subcommands() {
        let words = |list: &[&str]| list.iter().map(Into::into).collect::<Vec<OsString>>();
        assert_eq!(
            with_subcommand(words(&["/usr/bin/qvm-copy", "a"])),
            words(&["/usr/bin/qvm-copy", "qvm-copy", "a"])
        );
        assert_eq!(
            with_subcommand(words(&["casemate-agent", "identity"])),
            words(&["casemate-agent", "identity"])
        );
    }
}
