//! One VM is booted, stands still and is written down; others go on from there.
//!
//! The messages are put together as they go over the wire, so that this is built with a monitor that knows none of them
//! too: that one refuses, and the refusal is the reason why there is no figure.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_vmm_control::{Action, Event, Phase};
use serde_json::json;

use crate::guest::{BEAT, WORK};
use crate::ours::{Restore, Setup, Vm};
use crate::place::Place;
use crate::plan::Plan;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(240);
/// The key of all snapshots here: a secret of nobody.
const KEY: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

/// A VM on disk.
#[derive(Debug)]
pub struct Snapshot<'a> {
    place: &'a Place,
    cmdline: String,
    memory_mib: u32,
    vcpus: u8,
    state: PathBuf,
    memory: PathBuf,
    /// What another VM has changed when its guest counted on.
    working_set: Option<PathBuf>,
    /// From the order to the answer.
    pub took: Duration,
}

impl<'a> Snapshot<'a> {
    /// Boots a VM that counts for ever, and writes it down while it counts.
    ///
    /// # Errors
    /// When it does not boot, or the monitor refuses.
    pub fn take(place: &'a Place, plan: &Plan, memory_mib: u32, vcpus: u8) -> Result<Self> {
        let cmdline = format!("{} {WORK}beat", plan.default_cmdline);
        let mut vm = Vm::start(Setup {
            vcpus,
            ..place.setup(&cmdline, memory_mib)
        })?;
        vm.console.wait_for(BEAT, LIMIT)?;
        vm.act(&Action::Pause)?;
        match vm.event()? {
            Event::State {
                phase: Phase::Paused,
                ..
            } => {}
            other => bail!("{other:?} instead of a pause"),
        }
        let (state, memory) = (place.folder.join("state"), place.folder.join("memory"));
        let (state_file, memory_file) = (create(&state)?, create(&memory)?);
        let order = serde_json::to_vec(&json!({ "action": "snapshot", "key": KEY }))?;
        let began = Instant::now();
        vm.order(&order, &[state_file.as_fd(), memory_file.as_fd()])?;
        let answer = vm.event()?;
        let took = began.elapsed();
        if !matches!(answer, Event::State { .. }) {
            bail!("the monitor takes no snapshot: {answer:?}");
        }
        vm.kill()?;
        Ok(Self {
            place,
            cmdline,
            memory_mib,
            vcpus,
            state,
            memory,
            working_set: None,
            took,
        })
    }

    /// Lets a VM go on from here, and keeps what it has changed for the next ones.
    ///
    /// # Errors
    /// When the monitor refuses, or the guest does not go on.
    pub fn learn(&mut self) -> Result<()> {
        let (mut vm, _) = self.restore()?;
        let path = self.place.folder.join("working-set");
        let file = create(&path)?;
        let order = serde_json::to_vec(&json!({ "action": "save-working-set" }))?;
        vm.order(&order, &[file.as_fd()])?;
        match vm.event()? {
            Event::State { .. } => {}
            other => bail!("the monitor knows no working set: {other:?}"),
        }
        vm.kill()?;
        self.working_set = Some(path);
        Ok(())
    }

    /// Bytes that both files have on disk, in KiB.
    ///
    /// # Errors
    /// When they are gone.
    pub fn kib(&self) -> Result<u64> {
        let blocks = fs::metadata(&self.state)?.blocks() + fs::metadata(&self.memory)?.blocks();
        Ok(blocks / 2)
    }

    /// Starts a VM that goes on from here, and waits until its guest has counted on. Gives the time from just before the
    /// monitor was started.
    ///
    /// # Errors
    /// When the monitor refuses, or the guest does not go on.
    pub fn restore(&self) -> Result<(Vm, Duration)> {
        let mut vm = Vm::start(Setup {
            vcpus: self.vcpus,
            restore: Some(Restore {
                state: File::open(&self.state)?.into(),
                memory: File::open(&self.memory)?.into(),
                key: KEY,
                working_set: match &self.working_set {
                    Some(path) => Some(File::open(path)?.into()),
                    None => None,
                },
            }),
            ..self.place.setup(&self.cmdline, self.memory_mib)
        })?;
        // Its log is new: whatever is there was printed after it went on.
        vm.console
            .wait_for(BEAT, LIMIT)
            .context("the guest does not go on")?;
        let took = vm.began.elapsed();
        Ok((vm, took))
    }
}

fn create(path: &std::path::Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    Ok(options.open(path)?)
}
