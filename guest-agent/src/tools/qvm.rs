//! `qvm-copy`, `qvm-move`, `qvm-copy-to-vm`, `qvm-move-to-vm`, `qvm-open-in-vm`, `qvm-open-in-dvm`, `qvm-run-vm`.

use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::client::{CallOptions, call};
use crate::{filecopy::send, services::vm_exec::encode};

/// Copies files to a VM that the prompt asks for (`@default`) or that is named. With `remove`, the originals go once
/// the whole copy has been confirmed.
pub(crate) fn copy(
    target: &str,
    files: &[PathBuf],
    remove: bool,
    quiet: bool,
) -> anyhow::Result<u8> {
    check(files)?;
    let code = with_sender(target, "qubes.Filecopy", files, quiet)?;
    if code == 0 && remove {
        for file in files {
            let is_directory = fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_dir());
            let removed = if is_directory {
                fs::remove_dir_all(file)
            } else {
                fs::remove_file(file)
            };
            removed
                .with_context(|| format!("{} was copied but cannot be removed", file.display()))?;
        }
    }
    Ok(code)
}

/// Opens one file in another VM.
pub(crate) fn open(target: &str, file: PathBuf) -> anyhow::Result<u8> {
    let files = [file];
    check(&files)?;
    with_sender(target, "qubes.OpenInVM", &files, false)
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

fn with_sender(target: &str, service: &str, files: &[PathBuf], quiet: bool) -> anyhow::Result<u8> {
    let mut program: Vec<OsString> = ["/proc/self/exe", "send-files"].map(Into::into).into();
    if quiet {
        program.push("--quiet".into());
    }
    program.push("--".into());
    program.extend(files.iter().map(OsString::from));
    call(&CallOptions::default(), target, service, &program)
}

/// Wrong names are told before anybody is asked anything.
fn check(files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        fs::symlink_metadata(file).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// The program behind [`with_sender`]: the stream on stdout, the answer on stdin, progress on a terminal.
pub(crate) fn send_files(files: &[PathBuf], quiet: bool) -> anyhow::Result<u8> {
    let started = Instant::now();
    let mut shown = Instant::now();
    let visible = !quiet && io::stderr().is_terminal();
    let mut progress = |sent: u64| {
        if visible && shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            let seconds = started.elapsed().as_secs_f64().max(0.001);
            #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
            let rate = sent as f64 / seconds / 1e6;
            let _ = write!(
                io::stderr(),
                "\r{} MB sent, {rate:.1} MB/s ",
                sent / 1_000_000
            );
        }
    };
    let mut output = fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut input = fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let result = send(files, &mut output, &mut input, &mut progress);
    if visible {
        let _ = writeln!(io::stderr());
    }
    result.context("the copy failed")?;
    Ok(0)
}
