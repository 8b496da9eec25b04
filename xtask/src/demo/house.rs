//! Casemate on the demo's stage, as its user drives it: the `casemate` command and the screen.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_lab::{Lab, Output, Picture, Process};
use serde::Deserialize;

use super::stage::Stage;

/// For what a healthy machine answers at once. The lab is some forty times slower than that.
pub(super) const SHORT: Duration = Duration::from_secs(120);
/// For what boots a VM.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A window as `casemate windows --json` tells.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Window {
    pub(super) vm: String,
    pub(super) kind: String,
    pub(super) title: String,
    pub(super) x: i64,
    pub(super) y: i64,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// A VM as `casemate ls --json` tells.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Vm {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) pid: u32,
}

/// A decision as `casemate audit --json` tells.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Decision {
    pub(super) source: String,
    pub(super) target: String,
    pub(super) service: String,
    pub(super) result: String,
    pub(super) rule: String,
}

/// Where a user's settings are, relative to the home.
pub(super) const SETTINGS: &str = ".config/casemate/casemate.toml";

/// The settings for a stage.
pub(super) fn settings(stage: Stage) -> String {
    format!(
        "[start]\ntimeout-s = {}\n\n[compositor]\nbackend = \"{}\"\n",
        stage.start_timeout(),
        stage.backend()
    )
}

/// Casemate in a lab, or on this machine in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct House<'a> {
    pub(super) lab: &'a Lab,
}

impl House<'_> {
    /// Runs `casemate` and gives what it said, whatever its exit code.
    pub(super) fn casemate(&self, words: &[&str], timeout: Duration) -> Result<Output> {
        self.lab
            .command("user", &with_program(words))
            .timeout(timeout)
            .run()
    }

    /// Runs `casemate`, which must succeed, and gives its standard output.
    pub(super) fn say(&self, words: &[&str], timeout: Duration) -> Result<String> {
        let output = self.casemate(words, timeout).and_then(Output::check);
        Ok(output
            .with_context(|| format!("casemate {}", words.join(" ")))?
            .text())
    }

    /// Starts `casemate` and leaves it running.
    pub(super) fn start(&self, words: &[&str]) -> Result<Process> {
        let process = self.lab.command("user", &with_program(words)).spawn()?;
        process.close_stdin()?;
        Ok(process)
    }

    /// Runs a shell line in a VM, which must succeed.
    pub(super) fn shell(&self, vm: &str, line: &str) -> Result<String> {
        self.say(&["run", vm, "--", "sh", "-c", line], SHORT)
    }

    pub(super) fn vms(&self) -> Result<Vec<Vm>> {
        let text = self.say(&["ls", "--json"], SHORT)?;
        serde_json::from_str(&text).with_context(|| format!("casemate ls --json said {text}"))
    }

    pub(super) fn vm(&self, name: &str) -> Result<Vm> {
        let found = self.vms()?.into_iter().find(|vm| vm.name == name);
        found.with_context(|| format!("casemate ls does not list {name}"))
    }

    pub(super) fn windows(&self) -> Result<Vec<Window>> {
        let text = self.say(&["windows", "--json"], SHORT)?;
        serde_json::from_str(&text).with_context(|| format!("casemate windows --json said {text}"))
    }

    pub(super) fn decisions(&self) -> Result<Vec<Decision>> {
        let text = self.say(&["audit", "--json"], SHORT)?;
        serde_json::from_str(&text).with_context(|| format!("casemate audit --json said {text}"))
    }

    /// Waits for a toplevel of a VM that `wanted` agrees to.
    pub(super) fn window(
        &self,
        wanted: impl Fn(&Window) -> bool,
        timeout: Duration,
    ) -> Result<Window> {
        let found = self.until("a window", timeout, || {
            let windows = self.windows()?;
            Ok(windows
                .into_iter()
                .find(|window| window.kind == "toplevel" && wanted(window)))
        });
        found.with_context(|| format!("windows are {:?}", self.windows()))
    }

    /// Asks again and again until there is an answer.
    pub(super) fn until<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut ask: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(found) = ask()? {
                return Ok(found);
            }
            if Instant::now() >= end {
                bail!("waited {} s for {what}", timeout.as_secs());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Takes a picture of the screen and saves it.
    pub(super) fn picture(&self, path: &Path) -> Result<Picture> {
        let picture = self.lab.screen().picture()?;
        picture.save(path)?;
        Ok(picture)
    }

    /// Writes a file of the user, relative to the home.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let path = format!("{}/{path}", self.lab.home());
        self.lab.put("user", &path, "0644", bytes)
    }

    /// Process number of the supervisor: not that of another Casemate, which a person may use meanwhile.
    pub(super) fn supervisor(&self) -> Result<String> {
        let ours = "for pid in $(pidof casemated); do \
                    grep -qzxF \"XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR\" /proc/$pid/environ && echo $pid; done; true";
        let found = self.lab.text("user", &["sh", "-c", ours])?;
        let found = found.trim();
        found
            .parse::<u32>()
            .with_context(|| format!("not one casemated runs: {found:?}"))?;
        Ok(found.to_owned())
    }
}

fn with_program<'a>(words: &[&'a str]) -> Vec<&'a str> {
    std::iter::once("casemate")
        .chain(words.iter().copied())
        .collect()
}
