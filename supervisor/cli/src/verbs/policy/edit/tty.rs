//! The person: an editor, and a question.

use std::{
    env,
    ffi::OsString,
    io::{self, stdin},
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Stdio},
};

use futures_util::FutureExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
};

use crate::failure::Failure;

/// What a person can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Yes,
    Again,
    No,
}

/// The terminal. An interrupt ends the question, and is the editor's while that runs.
pub(super) struct Tty {
    interrupts: Signal,
}

impl Tty {
    pub(super) fn new() -> Result<Self, Failure> {
        let interrupts = signal(SignalKind::interrupt())
            .map_err(|error| Failure::failed(format!("cannot watch for interrupts: {error}")))?;
        Ok(Self { interrupts })
    }

    /// Lets the person change files, and returns when the editor has ended. The editor does not write on stdout when
    /// `is_data`.
    pub(super) fn edit<'a>(
        &mut self,
        files: impl Iterator<Item = &'a PathBuf>,
        is_data: bool,
    ) -> Result<(), Failure> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let editor = set("VISUAL")
            .or_else(|| set("EDITOR"))
            .unwrap_or_else(|| "vi".into());
        let shown = editor.to_string_lossy().into_owned();
        let failed = |why: String| {
            Failure::failed(format!(
                "the editor '{shown}' {why}; nothing was replaced. $VISUAL and $EDITOR name another one"
            ))
        };
        // As a shell command, because people write options into these variables.
        let mut script: OsString = editor.clone();
        script.push(" \"$@\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(editor).args(files);
        if is_data {
            command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        }
        let status = command
            .status()
            .map_err(|error| failed(format!("cannot be started ({error})")))?;
        // Interrupts of that time were for the editor.
        while self.interrupts.recv().now_or_never().is_some() {}
        if status.success() {
            return Ok(());
        }
        Err(failed(format!("ended with {status}")))
    }

    /// Asks until the answer is one of the possible ones. No answer is no.
    pub(super) async fn ask(&mut self, question: &str, may_accept: bool) -> Result<Reply, Failure> {
        loop {
            eprint!("{question} ");
            let line = tokio::select! {
                line = spawn_blocking(read) => line.unwrap_or_else(|error| Err(error.into())),
                _ = self.interrupts.recv() => Ok(None),
            };
            let line =
                line.map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
            match line.as_deref().map(str::trim) {
                Some("y" | "yes") if may_accept => return Ok(Reply::Yes),
                Some("e" | "edit") => return Ok(Reply::Again),
                None => {
                    eprintln!();
                    return Ok(Reply::No);
                }
                Some("n" | "no") => return Ok(Reply::No),
                Some(_) => {}
            }
        }
    }
}

/// A line, `None` at the end of the input.
fn read() -> io::Result<Option<String>> {
    let mut line = String::new();
    Ok((stdin().read_line(&mut line)? > 0).then_some(line))
}
