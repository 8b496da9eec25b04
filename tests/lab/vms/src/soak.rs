//! Boots of our monitor one after the other, with one, two and four vCPUs in turn, each to the end that the guest asks
//! for; then restores from snapshots of such VMs. What goes wrong once in fifty times is found so.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use casemate_vmm_control::{Event, StopReason};

use crate::guest::{CPUS, UP, WORK};
use crate::ours::{Setup, Vm};
use crate::place::Place;
use crate::plan::Plan;
use crate::snapshot::Snapshot;

/// vCPUs of successive boots.
const VCPUS: [u8; 3] = [1, 2, 4];
/// How long a guest may take.
const BOOT: Duration = Duration::from_secs(240);

/// What a soak has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Boots and restores that went as they should.
    pub good: u32,
    /// What the others failed with.
    pub failures: Vec<String>,
}

/// Boots `boots` times, then restores `restores` times; `progress` hears of each.
///
/// # Errors
/// When the lab lacks what is needed. What fails is in the summary.
pub fn run(
    plan: &Plan,
    boots: u32,
    restores: u32,
    account: Option<(u32, u32)>,
    progress: &mut dyn FnMut(&str),
) -> Result<Summary> {
    let place = Place::prepare(&plan.payload, account)?;
    let mut summary = Summary::default();
    let mut note = |what: String, result: Result<Duration>| match result {
        Ok(took) => {
            summary.good += 1;
            progress(&format!("{what}: {:.1} s", took.as_secs_f64()));
        }
        Err(error) => {
            let failure = format!("{what}: {error:#}");
            progress(&failure);
            summary.failures.push(failure);
        }
    };
    for (number, vcpus) in (1..=boots).zip(VCPUS.into_iter().cycle()) {
        let what = format!("boot {number} of {boots}, {vcpus} vCPUs");
        note(what, boot(&place, plan, vcpus));
    }
    // A snapshot for each number of vCPUs, and as many restores from it as it takes.
    let kinds = u32::try_from(VCPUS.len())?;
    for (kind, vcpus) in (0..kinds).zip(VCPUS) {
        let count = restores / kinds + u32::from(kind < restores % kinds);
        if count == 0 {
            continue;
        }
        let mut snapshot = match Snapshot::take(&place, plan, plan.memory_mib, vcpus) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                note(format!("snapshot, {vcpus} vCPUs"), Err(error));
                continue;
            }
        };
        for number in 1..=count {
            // The second half is given its pages at once.
            if number == count / 2 + 1
                && let Err(error) = snapshot.learn()
            {
                note(format!("working set, {vcpus} vCPUs"), Err(error));
            }
            let what = format!("restore {number} of {count}, {vcpus} vCPUs");
            let restored = snapshot.restore().and_then(|(vm, took)| {
                vm.kill()?;
                Ok(took)
            });
            note(what, restored);
        }
    }
    Ok(summary)
}

/// One boot: the guest finds its processors, and switches itself off.
fn boot(place: &Place, plan: &Plan, vcpus: u8) -> Result<Duration> {
    let cmdline = format!("{} {WORK}count", plan.default_cmdline);
    let mut vm = Vm::start(Setup {
        vcpus,
        ..place.setup(&cmdline, plan.memory_mib)
    })?;
    vm.console.wait_for(UP, BOOT)?;
    let took = vm.began.elapsed();
    let found = format!("{CPUS} {vcpus}");
    let said = vm.console.wait_for(CPUS, BOOT)?;
    match vm.event().context("no word of its end")? {
        Event::Stopped {
            reason: StopReason::PowerOff,
        } => {}
        other => bail!("{other:?} instead of a power-off"),
    }
    let said = vm.console.said().unwrap_or(said);
    if !said.lines().any(|line| line.trim_end() == found) {
        bail!("the guest has other processors: {said:?}");
    }
    match vm.wait()? {
        0 => Ok(took),
        code => bail!("the monitor ended with {code}"),
    }
}
