//! Another monitor: a program whose standard output is the guest's serial port.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::console::Console;
use crate::exec::ExecTime;
use crate::plan::Peer;

/// What is filled into a peer's arguments.
#[derive(Clone, Copy, Debug)]
pub struct Filling<'a> {
    /// Where the peer's files are.
    pub payload: &'a Path,
    /// ELF kernel.
    pub kernel: &'a Path,
    /// Its initrd.
    pub initrd: &'a Path,
    /// A disk that is only read.
    pub disk: &'a Path,
    /// An empty folder in memory.
    pub folder: &'a Path,
    /// Kernel command line, without the console.
    pub cmdline: &'a str,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of the descriptor of a stream network that it inherits, when its guest is to have one.
    pub network: Option<i32>,
    /// User and group that it runs as, when we are root.
    pub account: Option<(u32, u32)>,
}

/// A running monitor. Dropping it kills it.
#[derive(Debug)]
pub struct Other {
    /// Where its guest prints.
    pub console: Console,
    /// Just before it was started.
    pub began: Instant,
    child: Child,
}

impl Other {
    /// Starts a peer.
    ///
    /// # Errors
    /// When its program does not run or its configuration cannot be written.
    pub fn start(peer: &Peer, filling: &Filling<'_>) -> Result<Self> {
        let config = filling.folder.join("config");
        if let Some(text) = &peer.config {
            std::fs::write(&config, fill(text, peer, filling, &config))?;
        }
        let program = filling.payload.join(&peer.program);
        let mut command = Command::new(&program);
        let more = filling.network.map_or(&[][..], |_| &peer.network);
        let words = peer.arguments.iter().chain(more);
        command
            .args(words.map(|word| fill(word, peer, filling, &config)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(libraries) = &peer.libraries {
            command.env("LD_LIBRARY_PATH", filling.payload.join(libraries));
        }
        if let Some((user, group)) = filling.account {
            command.uid(user).gid(group);
        }
        let exec = ExecTime::of(&mut command)?;
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let began = exec.get()?;
        let pipe = child.stdout.take().context("a pipe")?;
        Ok(Self {
            console: Console::pipe(pipe),
            began,
            child,
        })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fill(word: &str, peer: &Peer, filling: &Filling<'_>, config: &Path) -> String {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let cmdline = format!("{} {}", peer.console, filling.cmdline);
    [
        ("{kernel}", path(filling.kernel)),
        ("{initrd}", path(filling.initrd)),
        ("{disk}", path(filling.disk)),
        ("{folder}", path(filling.folder)),
        ("{payload}", path(filling.payload)),
        ("{config}", path(config)),
        ("{cmdline}", cmdline),
        ("{memory}", filling.memory_mib.to_string()),
        ("{network}", filling.network.unwrap_or(-1).to_string()),
    ]
    .iter()
    .fold(word.to_owned(), |word, (name, value)| {
        word.replace(name, value)
    })
}
