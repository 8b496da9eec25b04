//! The supervisor's own command line: short, because the `casemate` command speaks to people.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{leftovers, serve, spawn};

/// The supervisor of Casemate. The `casemate` command starts it when needed.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// Leave the terminal's session, as a daemon does.
    #[arg(long)]
    background: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program in control groups.
    #[command(hide = true)]
    Confine {
        /// Where a process enters a group.
        #[arg(long = "entrance")]
        entrances: Vec<PathBuf>,
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a program in a session of its own.
    #[command(hide = true)]
    Detach {
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

impl Arguments {
    /// Does what was asked; the supervisor runs until a signal.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Some(Command::Confine {
                entrances,
                program,
                arguments,
            }) => return Err(spawn::confine(&entrances, &program, &arguments).into()),
            Some(Command::Detach { program, arguments }) => {
                return Err(spawn::detach(&program, &arguments).into());
            }
            // The other two hand on what they were given.
            None => {
                if let Err(error) = leftovers::keep_from_children() {
                    tracing::warn!(%error, "what was left open for us may be inherited");
                }
            }
        }
        if self.background
            && let Err(errno) = rustix::process::setsid()
        {
            tracing::debug!(%errno, "this is a session leader already");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let result = runtime.block_on(serve::serve());
        // A template build may be under way in a blocking thread; its staging folder is swept by the next one.
        runtime.shutdown_background();
        result
    }
}
