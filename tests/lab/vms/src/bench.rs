//! The works of `cargo xtask bench vmm`, one after the other in one lab, ours and the peers' alike.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::guest::{DONE, FAILED, ONLY, PAUSE, TOOK, UP, WORK};
use crate::memory::{Overhead, overhead};
use crate::other::{Filling, Other};
use crate::ours::{Setup, Vm};
use crate::place::Place;
use crate::plan::{Figure, OURS, Peer, Plan};
use crate::profile;
use crate::sink;
use crate::snapshot::Snapshot;
use crate::trace::Trace;

/// How long a guest may take to its first line.
const BOOT: Duration = Duration::from_secs(300);
/// How long all works of the devices may take.
const DEVICES_DONE: Duration = Duration::from_secs(120);
/// Instructions and milliseconds of the lab's clock, when it counts.
const MILLIONS: &str = "Minstr";
const THOUSANDS: &str = "kinstr";

/// The guest's clock in its first line, in seconds, once all of the line is there.
fn clock(said: &str) -> Option<f64> {
    let (_, rest) = said.split_once(UP)?;
    let (line, _) = rest.split_once('\n')?;
    line.trim().parse().ok()
}

/// Exits of all VMs that there are now: of the one that runs. None known is zero.
fn exits(kind: &str) -> u32 {
    let path = format!("/sys/kernel/debug/kvm/{kind}");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

fn millions(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// The figure of a work in what a guest has said, in thousands.
fn took(said: &str, work: &str) -> Result<f64, String> {
    for line in said.lines() {
        if let Some(rest) = line.strip_prefix(FAILED)
            && let Some(reason) = rest.trim_start().strip_prefix(work)
        {
            return Err(reason.trim_start_matches(':').trim().to_owned());
        }
        let figure = line
            .strip_prefix(TOOK)
            .and_then(|rest| rest.trim_start().strip_prefix(work));
        if let Some(figure) = figure {
            let nanoseconds: u32 = figure.trim().parse().map_err(|_| format!("{line:?}"))?;
            return Ok(f64::from(nanoseconds) / 1000.0);
        }
    }
    Err("the guest says nothing of it".to_owned())
}

fn mib(kib: u64) -> f64 {
    // Far below what a float holds exactly.
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// Does every work of the plan, handing over each figure when it is there.
///
/// # Errors
/// When the lab lacks what is needed. A work that fails is a figure with a reason.
pub fn run(
    plan: &Plan,
    account: Option<(u32, u32)>,
    report: &mut dyn FnMut(&Figure),
) -> Result<()> {
    let place = Place::prepare(&plan.payload, account)?;
    let bench = Bench { plan, place };
    let wanted = |work: &str| bench.wants(work);
    let (kernel, standard) = (&bench.place.kernel, &bench.place.standard_kernel);
    for (work, kernel, cmdline) in [
        ("boot", kernel, &plan.cmdline),
        ("boot-default-cmdline", kernel, &plan.default_cmdline),
        ("boot-standard-kernel", standard, &plan.default_cmdline),
    ] {
        if wanted(work) {
            bench.boots(work, kernel, cmdline, report);
        }
    }
    if ["snapshot", "snapshot-mib", "restore"]
        .iter()
        .any(|work| wanted(work))
    {
        bench.snapshots("", plan.memory_mib, report);
    }
    if wanted("restore-large") {
        bench.snapshots("-large", LARGE_MIB, report);
    }
    if DEVICES.iter().any(|(work, _)| wanted(work)) {
        bench.devices(report);
    }
    Ok(())
}

/// Memory of the guest of `restore-large`: a restore must not take longer for it.
const LARGE_MIB: u32 = 4096;

/// Works of the devices, all done in one boot, and why they are.
const DEVICES: [(&str, &str); 4] = [
    ("doorbell", "a notification without work"),
    ("blk-read-4k", "a random read past the cache"),
    ("vsock-send-64k", "64 KiB to the host"),
    ("net-send-1500", "a frame to a user-mode network"),
];

/// One boot, up to the first line.
#[derive(Clone, Copy, Debug)]
struct Boot {
    took: Duration,
    /// What the guest's own clock said.
    guest: f64,
    exits: u32,
    /// Of them: for a port, for a device's registers, to wait, and pages that the guest touched first.
    kinds: [u32; KINDS.len()],
    memory: Overhead,
}

/// Kinds of exits: what KVM calls them, and how the row is called.
const KINDS: [(&str, &str); 4] = [
    ("io_exits", "boot-exits-port"),
    ("mmio_exits", "boot-exits-register"),
    ("halt_exits", "boot-exits-halt"),
    ("pf_taken", "boot-exits-page"),
];

#[derive(Debug)]
struct Bench<'a> {
    plan: &'a Plan,
    place: Place,
}

impl Bench<'_> {
    fn wants(&self, work: &str) -> bool {
        self.plan.only.is_empty() || self.plan.only.iter().any(|name| name == work)
    }

    /// Boots ours and all peers; with the plain command line the memory counts, too.
    fn boots(&self, work: &str, kernel: &Path, cmdline: &str, report: &mut dyn FnMut(&Figure)) {
        let names = self.plan.peers.iter().map(|peer| peer.name.as_str());
        for (who, peer) in
            std::iter::once((OURS, None)).chain(names.zip(self.plan.peers.iter().map(Some)))
        {
            let once = || match peer {
                None => self.boot(kernel, cmdline),
                Some(peer) => self.boot_other(peer, kernel, cmdline),
            };
            if self.plan.profile {
                let program = peer.map_or(&self.place.program, |peer| &peer.program);
                traced(&format!("{work} by {who}"), program, || once().map(drop));
            }
            for _ in 0..self.plan.runs {
                let boot = once();
                let mut say = |work: &str, unit: &str, value: &dyn Fn(&Boot) -> f64| {
                    report(&Figure {
                        work: work.to_owned(),
                        unit: unit.to_owned(),
                        who: who.to_owned(),
                        value: boot
                            .as_ref()
                            .map(value)
                            .map_err(|error| format!("{error:#}")),
                    });
                };
                say(work, MILLIONS, &|boot| millions(boot.took));
                if work == "boot" && boot.is_ok() {
                    say("boot-guest-clock", MILLIONS, &|boot| boot.guest);
                    say("boot-exits", "exits", &|boot| f64::from(boot.exits));
                    for (index, (_, row)) in KINDS.iter().enumerate() {
                        say(row, "exits", &|boot| {
                            f64::from(boot.kinds.get(index).copied().unwrap_or_default())
                        });
                    }
                    say("rss-mib", "MiB", &|boot| mib(boot.memory.resident));
                    say("private-dirty-mib", "MiB", &|boot| {
                        mib(boot.memory.private_dirty)
                    });
                }
                if boot.is_err() {
                    break;
                }
            }
        }
    }

    fn boot(&self, kernel: &Path, cmdline: &str) -> Result<Boot> {
        let cmdline = format!("{cmdline} {WORK}none");
        let mut vm = Vm::start(Setup {
            kernel,
            ..self.place.setup(&cmdline, self.plan.memory_mib)
        })?;
        let said = vm.console.wait(BOOT, UP, |said| clock(said).is_some())?;
        let took = vm.began.elapsed();
        let (all, kinds) = (exits("exits"), KINDS.map(|(name, _)| exits(name)));
        let memory = self.stopped(vm.pid())?;
        vm.kill()?;
        let guest = clock(&said).unwrap_or_default() * 1000.0;
        Ok(Boot {
            took,
            guest,
            exits: all,
            kinds,
            memory,
        })
    }

    fn boot_other(&self, peer: &Peer, kernel: &Path, cmdline: &str) -> Result<Boot> {
        let cmdline = format!("{cmdline} {WORK}none");
        let folder = self.place.fresh("peer")?;
        let filling = Filling {
            kernel,
            ..self.filling(&folder, &cmdline)
        };
        let mut other = Other::start(peer, &filling)?;
        let said = other.console.wait(BOOT, UP, |said| clock(said).is_some())?;
        let took = other.began.elapsed();
        let (all, kinds) = (exits("exits"), KINDS.map(|(name, _)| exits(name)));
        let memory = self.stopped(other.pid())?;
        let guest = clock(&said).unwrap_or_default() * 1000.0;
        Ok(Boot {
            took,
            guest,
            exits: all,
            kinds,
            memory,
        })
    }

    /// Writes a VM down and lets others go on from there. No peer of ours does both with these devices.
    fn snapshots(&self, suffix: &str, memory_mib: u32, report: &mut dyn FnMut(&Figure)) {
        let mut say = |work: &str, unit: &str, value: Result<f64>| {
            report(&Figure {
                work: format!("{work}{suffix}"),
                unit: unit.to_owned(),
                who: OURS.to_owned(),
                value: value.map_err(|error| format!("{error:#}")),
            });
        };
        let mut snapshot = match Snapshot::take(&self.place, self.plan, memory_mib, 1) {
            Ok(snapshot) => snapshot,
            Err(error) => return say("snapshot", MILLIONS, Err(error)),
        };
        say("snapshot", MILLIONS, Ok(millions(snapshot.took)));
        say("snapshot-mib", "MiB", snapshot.kib().map(mib));
        // The first of all, from whose faults the others are spared.
        let first = snapshot.restore().and_then(|(vm, took)| {
            let pages = exits("pf_taken");
            vm.kill()?;
            Ok((took, pages))
        });
        match first {
            Ok((took, pages)) => {
                say("restore-first", MILLIONS, Ok(millions(took)));
                say("restore-first-exits-page", "exits", Ok(f64::from(pages)));
            }
            Err(error) => return say("restore-first", MILLIONS, Err(error)),
        }
        if let Err(error) = snapshot.learn() {
            return say("restore", MILLIONS, Err(error));
        }
        for _ in 0..self.plan.runs {
            let restored = snapshot.restore().and_then(|(vm, took)| {
                let pages = exits("pf_taken");
                let memory = self.stopped_with(vm.pid(), memory_mib)?;
                vm.kill()?;
                Ok((took, pages, memory))
            });
            match restored {
                Ok((took, pages, memory)) => {
                    say("restore", MILLIONS, Ok(millions(took)));
                    say("restore-exits-page", "exits", Ok(f64::from(pages)));
                    // A large guest's memory is in two pieces, of which the small one would count.
                    if suffix.is_empty() {
                        say("restore-rss-mib", "MiB", Ok(mib(memory.resident)));
                    }
                }
                Err(error) => return say("restore", MILLIONS, Err(error)),
            }
        }
    }

    /// What one operation of each device takes, ours and the peers' that have a network.
    fn devices(&self, report: &mut dyn FnMut(&Figure)) {
        // The doorbell is a register of a device that its driver has claimed.
        let mut cmdline = format!("{} iomem=relaxed {WORK}devices", self.plan.default_cmdline);
        let wanted: Vec<_> = DEVICES.map(|(work, _)| work).to_vec();
        let wanted: Vec<_> = wanted.into_iter().filter(|work| self.wants(work)).collect();
        cmdline += &format!(" {ONLY}{}", wanted.join(","));
        if self.plan.profile {
            cmdline += &format!(" {PAUSE}");
        }
        let peers = self.plan.peers.iter();
        let mut all = vec![(OURS, self.devices_of_ours(&cmdline))];
        let listening = sink::listen().map_err(|error| format!("{error:#}"));
        for peer in peers.filter(|peer| !peer.network.is_empty()) {
            let said = match &listening {
                Ok(()) => self.devices_of_other(peer, &cmdline),
                Err(reason) => Err(anyhow::anyhow!("no vsock for others: {reason}")),
            };
            all.push((&peer.name, said));
        }
        for (who, said) in all {
            for work in &wanted {
                report(&Figure {
                    work: (*work).to_owned(),
                    unit: THOUSANDS.to_owned(),
                    who: who.to_owned(),
                    value: match &said {
                        Ok(said) => took(said, work),
                        Err(error) => Err(format!("{error:#}")),
                    },
                });
            }
        }
    }

    fn devices_of_ours(&self, cmdline: &str) -> Result<String> {
        let mut vm = Vm::start(Setup {
            initrd: &self.place.initrd_with_modules,
            network: Some(sink::network()?),
            ..self.place.setup(cmdline, self.plan.memory_mib)
        })?;
        sink::offer(&vm.broker)?;
        if self.plan.profile {
            let pid = vm.pid();
            profile::follow(&mut vm.console, OURS, pid, DEVICES_DONE)?;
        }
        let said = vm.console.wait_for(DONE, DEVICES_DONE)?;
        vm.kill()?;
        Ok(said)
    }

    fn devices_of_other(&self, peer: &Peer, cmdline: &str) -> Result<String> {
        let network = sink::network()?;
        rustix::io::fcntl_setfd(&network, FdFlags::empty())?;
        let folder = self.place.fresh("peer")?;
        let filling = Filling {
            initrd: &self.place.initrd_with_modules,
            network: Some(network.as_raw_fd()),
            ..self.filling(&folder, cmdline)
        };
        let mut other = Other::start(peer, &filling)?;
        drop(network);
        if self.plan.profile {
            let pid = other.pid();
            profile::follow(&mut other.console, &peer.name, pid, DEVICES_DONE)?;
        }
        other.console.wait_for(DONE, DEVICES_DONE)
    }

    /// What a process holds besides the guest's memory, read while it stands still.
    fn stopped(&self, pid: u32) -> Result<Overhead> {
        self.stopped_with(pid, self.plan.memory_mib)
    }

    fn stopped_with(&self, pid: u32, memory_mib: u32) -> Result<Overhead> {
        let process = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
        kill_process(process, Signal::STOP)?;
        let memory = overhead(pid, memory_mib);
        kill_process(process, Signal::CONT)?;
        memory
    }

    fn filling<'a>(&'a self, folder: &'a Path, cmdline: &'a str) -> Filling<'a> {
        Filling {
            payload: &self.place.payload,
            kernel: &self.place.kernel,
            initrd: &self.place.initrd,
            disk: &self.place.disk,
            folder,
            cmdline,
            memory_mib: self.plan.memory_mib,
            network: None,
            account: self.place.account,
        }
    }
}

/// Says on standard error what a monitor does in a boot until its guest runs. The boot is none of those that are measured.
#[expect(
    clippy::print_stderr,
    reason = "a report for a person, beside the figures"
)]
fn traced(what: &str, program: &Path, boot: impl FnOnce() -> Result<()>) {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let lines = Trace::begin().and_then(|trace| {
        boot()?;
        trace.end(&name)
    });
    match lines {
        Ok(lines) => {
            for line in lines {
                eprintln!("profile: {what}: {line}");
            }
        }
        Err(error) => eprintln!("profile: {what}: not traced: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_clock_is_read_when_its_line_is_whole() {
        assert_eq!(clock(&format!("x\n{UP} 1.25")), None);
        assert_eq!(clock(&format!("x\n{UP} 1.25\r\n")), Some(1.25));
        assert_eq!(clock("x\n"), None);
    }

    #[test]
    fn a_figure_is_found_in_what_a_guest_said() {
        let said = format!("{TOOK} blk-read-4k 12500\n{FAILED} doorbell: no PCI bus\n{DONE}\n");
        assert_eq!(took(&said, "blk-read-4k"), Ok(12.5));
        assert_eq!(took(&said, "doorbell"), Err("no PCI bus".to_owned()));
        assert!(took(&said, "net-send-1500").is_err());
    }
}
