//! `casemate run`

use std::{
    io::{self, IsTerminal, Write, stderr, stdin, stdout},
    os::fd::OwnedFd,
    process::ExitCode,
};

use casemate_api::Supervisor1Proxy;

use super::program_code;
use crate::{
    call::{self, Output},
    failure::Failure,
    progress::Progress,
    session, shell,
    terminal::Filter,
};

/// Run a program in a VM, with its input, output and exit code here; the VM is started when needed
///
/// The words after `--` reach the program as they are; for pipes and variables of the VM use `-- sh -c '...'`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The VM
    #[arg(required_unless_present = "disposable")]
    name: Option<String>,
    /// Run in a fresh disposable, which goes when the program ends; of this template when one is named
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, require_equals = true, conflicts_with_all = ["name", "user"])]
    disposable: Option<Option<String>>,
    /// Run as this user of the VM
    #[arg(long, short)]
    user: Option<String>,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let supervisor = session::supervisor()
            .await
            .map_err(Failure::before_program)?;
        // The connection lives until the program has ended: a disposable lives as long as its caller is there.
        let call = call::make(async || self.stream(&supervisor).await)
            .await
            .map_err(Failure::before_program)?;
        let code = call::run(call, feed_stdin, Printer::new().into_taker())?;
        Ok(program_code(code))
    }

    async fn stream(&self, supervisor: &Supervisor1Proxy<'_>) -> Result<OwnedFd, Failure> {
        let stream = match (&self.name, &self.disposable) {
            (Some(name), _) => {
                let _progress = quiet_progress(&format!("starting {name}"));
                let user = self.user.as_deref().unwrap_or_default();
                supervisor
                    .run_command(name, user, &shell::quote(&self.command))
                    .await?
            }
            (None, template) => {
                let _progress = quiet_progress("starting a disposable");
                let template = template.as_ref().and_then(Option::as_deref);
                let service = format!("qubes.VMExec+{}", shell::encode(&self.command));
                let (_, stream) = supervisor
                    .call_disposable(template.unwrap_or_default(), &service)
                    .await?;
                stream
            }
        };
        Ok(stream.into())
    }
}

/// Progress only for a person: the stderr of a script is the program's.
pub(super) fn quiet_progress(what: &str) -> Option<Progress> {
    stderr().is_terminal().then(|| Progress::begin(what))
}

fn feed_stdin(mut input: call::Input) {
    // Both ends of this copy may go at any time; either way the input is over.
    let _ = io::copy(&mut stdin().lock(), &mut input);
}

/// Prints what the program says; for a terminal it is made harmless first.
#[derive(Debug)]
pub(super) struct Printer {
    stdout: Option<Filter>,
    stderr: Option<Filter>,
}

impl Printer {
    pub(super) fn new() -> Self {
        Self {
            stdout: stdout().is_terminal().then(Filter::default),
            stderr: stderr().is_terminal().then(Filter::default),
        }
    }

    pub(super) fn print(&mut self, output: Output, bytes: &[u8]) -> io::Result<()> {
        match output {
            Output::Stdout => put(&mut self.stdout, &mut stdout().lock(), bytes),
            Output::Stderr => put(&mut self.stderr, &mut stderr().lock(), bytes),
        }
    }

    fn into_taker(mut self) -> impl FnMut(Output, &[u8]) -> io::Result<()> {
        move |output, bytes| self.print(output, bytes)
    }
}

fn put(filter: &mut Option<Filter>, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match filter {
        Some(filter) => out.write_all(filter.push(bytes).as_bytes())?,
        None => out.write_all(bytes)?,
    }
    out.flush()
}
