//! Running the distribution's own tools, with their output kept for the error message.

use std::{
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use casemate_storage::StoreError;

/// How many of the last lines of a failed tool are shown.
const TAIL: usize = 12;

/// Why a template could not be built. Nothing of it is left behind but caches.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No recipe of that name.
    #[error("there is no recipe '{name}'; known recipes: {known}")]
    NoRecipe {
        /// What was asked for.
        name: String,
        /// What exists.
        known: String,
    },
    /// The name cannot name a template.
    #[error("'{0}' cannot name a template: {1}")]
    Name(String, casemate_vm::InvalidName),
    /// The recipe has an error.
    #[error("{path}: {what}")]
    Recipe {
        /// Where.
        path: PathBuf,
        /// What and on which line.
        what: String,
    },
    /// A program of the host is missing.
    #[error("the program '{0}' is missing; install the Debian package {1}")]
    MissingTool(String, &'static str),
    /// A tool failed.
    #[error("{tool} failed ({status}); its last lines:\n{tail}")]
    Tool {
        /// Which.
        tool: String,
        /// How.
        status: String,
        /// The end of what it said.
        tail: String,
    },
    /// Something of ours that belongs into the template is missing.
    #[error("{0} is missing; build it first (`cargo build --release`) or reinstall Casemate")]
    MissingProgram(PathBuf),
    /// What a tool made is not what was expected.
    #[error("{0}")]
    Unexpected(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BuildError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Runs a tool to its end, giving every line that it prints to `line`.
pub(crate) fn run(command: &mut Command, line: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BuildError::MissingTool(tool.clone(), package_of(&tool)),
            _ => BuildError::Io {
                what: format!("cannot run {tool}"),
                source: error,
            },
        })?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let streams: [Option<Box<dyn io::Read + Send>>; 2] = [
        child
            .stdout
            .take()
            .map(|stream| Box::new(stream) as Box<dyn io::Read + Send>),
        child
            .stderr
            .take()
            .map(|stream| Box::new(stream) as Box<dyn io::Read + Send>),
    ];
    let readers: Vec<_> = streams
        .into_iter()
        .flatten()
        .map(|stream| {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut bytes = Vec::new();
                while reader
                    .read_until(b'\n', &mut bytes)
                    .is_ok_and(|read| read > 0)
                {
                    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                    bytes.clear();
                    if sender.send(text).is_err() {
                        break;
                    }
                }
            })
        })
        .collect();
    drop(sender);
    let mut tail = std::collections::VecDeque::new();
    for text in receiver {
        line(&text);
        tail.push_back(text);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
    for reader in readers {
        // A reader that panicked has lost some of the tail, nothing else.
        let _ = reader.join();
    }
    let status = child
        .wait()
        .map_err(BuildError::io(format!("cannot wait for {tool}")))?;
    if status.success() {
        return Ok(());
    }
    Err(BuildError::Tool {
        tool,
        status: status.to_string(),
        tail: Vec::from(tail).join("\n"),
    })
}

/// Whether this process is root and so needs neither user namespaces nor fakeroot.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn package_of(tool: &str) -> &'static str {
    match tool {
        "mmdebstrap" => "mmdebstrap",
        "fakeroot" => "fakeroot",
        "mke2fs" => "e2fsprogs",
        "depmod" => "kmod",
        "cpio" => "cpio",
        "busybox" => "busybox-static",
        "xz" => "xz-utils",
        "zstd" => "zstd",
        "apt-get" | "apt-cache" => "apt",
        _ => "that has it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tool_shows_its_last_lines() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let error = run(&mut command, &mut |line| lines.push(line.to_owned()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("err"),
            "{error}"
        );
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = run(&mut Command::new("no-such-tool-here"), &mut |_| {}).unwrap_err();
        assert!(matches!(error, BuildError::MissingTool(..)), "{error}");
    }
}
