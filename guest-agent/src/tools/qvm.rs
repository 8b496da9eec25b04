//! `qvm-copy`, `qvm-move`, `qvm-copy-to-vm`, `qvm-move-to-vm`, `qvm-run-vm`.

use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use casemate_filecopy::{Choice, Pace, send, size_of};

use super::client::{CallOptions, call};
use crate::services::vm_exec::encode;

/// Copies files to a VM that the prompt asks for (`@default`) or that is named.
pub(crate) fn copy(
    target: &str,
    files: &[PathBuf],
    quiet: bool,
    ignore_symlinks: bool,
) -> anyhow::Result<u8> {
    check(files)?;
    let flags = [
        quiet.then_some("--quiet"),
        ignore_symlinks.then_some("--ignore-symlinks"),
    ];
    with_sender(target, files, &flags)
}

/// Copies files and removes the originals once the whole copy has been confirmed.
pub(crate) fn move_away(target: &str, files: &[PathBuf], quiet: bool) -> anyhow::Result<u8> {
    let code = copy(target, files, quiet, false)?;
    if code != 0 {
        return Ok(code);
    }
    for file in files {
        let is_directory = fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_directory {
            fs::remove_dir_all(file)
        } else {
            fs::remove_file(file)
        };
        removed.with_context(|| format!("{} was copied but cannot be removed", file.display()))?;
    }
    Ok(0)
}

/// Runs a shell line, or a command with arguments, in another VM or in a fresh disposable.
pub(crate) fn run(disposable: bool, gui: bool, words: &[String]) -> anyhow::Result<u8> {
    let (target, words) = match words.split_first() {
        _ if disposable => ("@dispvm", words),
        Some((target, words)) => (target.as_str(), words),
        None => ("", words),
    };
    let words: Vec<&str> = match words {
        [] => bail!("no command was given: qvm-run-vm VM COMMAND"),
        [line] => vec!["/bin/sh", "-c", line],
        words => words.iter().map(String::as_str).collect(),
    };
    let service = if gui {
        "qubes.VMExecGUI"
    } else {
        "qubes.VMExec"
    };
    call(
        &CallOptions::default(),
        target,
        &format!("{service}+{}", encode(&words)),
        &[],
    )
}

fn with_sender(target: &str, files: &[PathBuf], flags: &[Option<&str>]) -> anyhow::Result<u8> {
    let mut program: Vec<OsString> = ["/proc/self/exe", "send-files"].map(Into::into).into();
    program.extend(flags.iter().flatten().map(Into::into));
    program.push("--".into());
    program.extend(files.iter().map(OsString::from));
    call(&CallOptions::default(), target, "qubes.Filecopy", &program)
}

/// Wrong names are told before anybody is asked anything.
fn check(files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        fs::symlink_metadata(file).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// The program behind [`with_sender`]: the stream on stdout, the answer on stdin, progress on a terminal.
pub(crate) fn send_files(files: &[PathBuf], choice: Choice, quiet: bool) -> anyhow::Result<u8> {
    let mut output = fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut input = fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut meter = Meter::new(files, choice, quiet);
    let result = send(files, choice, &mut output, &mut input, &mut |sent| {
        meter.note(sent);
    });
    meter.finish();
    result.context("the copy failed")?;
    Ok(0)
}

/// Progress in one line of a terminal.
pub(super) struct Meter {
    /// Bytes in all; none when nobody looks.
    total: Option<u64>,
    begun: Instant,
    shown: Duration,
    pace: Pace,
}

/// Time between two lines of progress.
const INTERVAL: Duration = Duration::from_millis(200);

impl Meter {
    pub(super) fn new(files: &[PathBuf], choice: Choice, quiet: bool) -> Self {
        let visible = !quiet && io::stderr().is_terminal();
        Self {
            total: visible.then(|| size_of(files, choice)),
            begun: Instant::now(),
            shown: Duration::ZERO,
            pace: Pace::default(),
        }
    }

    pub(super) fn note(&mut self, sent: u64) {
        let Some(total) = self.total else { return };
        let elapsed = self.begun.elapsed();
        if elapsed.saturating_sub(self.shown) < INTERVAL {
            return;
        }
        self.shown = elapsed;
        let line = self.pace.line(sent, total, elapsed);
        // The end of a longer line before this one is wiped.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    /// Leaves the line, if one was shown.
    pub(super) fn finish(&self) {
        if !self.shown.is_zero() {
            let _ = writeln!(io::stderr());
        }
    }
}
