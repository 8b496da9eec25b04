//! `cargo xtask bench vmm`: VMs in a lab that counts instructions, ours and other monitors' in the same boot of it.
//!
//! The same stock kernel (the one for clouds, see docs/benchmarks.md), the same initrd of about a megabyte, the same
//! command line, 256 MiB, one vCPU, and the same devices where a monitor has them. Figures are millions of instructions (`Minstr`) of the whole machine, guest, monitor
//! and both kernels: what a machine does, not how long it takes. They do not know what an exit costs real hardware, so
//! compare them with each other only.

mod adapter;
pub(crate) mod payload;
mod targets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use casemate_lab::image::cloud_kernel;
use casemate_lab::{Accelerator, Lab, Options, Process};
use casemate_lab_vms::plan::{Figure, OURS, Plan};
use clap::Args;

use super::Measured;
use crate::lab;
use crate::run::build_lab_guest;

pub(super) use targets::verdicts;

/// Guest memory of all works, in MiB.
pub(crate) const MEMORY_MIB: u32 = 256;
/// Memory of the lab: room for the largest guest.
const LAB_MIB: u32 = 6144;
/// The command line of `boot`, as small as a stock kernel takes it.
pub(crate) const CMDLINE: &str = "quiet panic=-1 reboot=t nokaslr";
/// How long one figure may take to come, on this machine's clock.
const NEXT: Duration = Duration::from_secs(600);

/// Boot, restore and memory of VMs, in instructions, beside QEMU and any other monitor.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Another monitor: a TOML file with name, program and arguments, see docs/benchmarks.md. May be repeated.
    #[arg(long, value_name = "FILE")]
    peer: Vec<PathBuf>,
    /// Leave QEMU out.
    #[arg(long)]
    no_qemu: bool,
    /// Only this work. May be repeated.
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// Say of each work of a device which threads did it, and what KVM counted meanwhile; its figures are not compared, for
    /// the guest pauses around each. And say of one more boot of each kind which system calls the monitor spent it on until
    /// the guest ran.
    #[arg(long)]
    profile: bool,
}

pub(super) fn run(arguments: &Arguments, runs: u32) -> Result<Vec<Measured>> {
    let image = lab::build()?;
    let folder = tempfile::tempdir()?;
    let mut peers = Vec::new();
    if !arguments.no_qemu {
        peers.extend(payload::qemu(folder.path())?);
    }
    for file in &arguments.peer {
        peers.push(adapter::load(file, folder.path())?);
    }
    let plan = Plan {
        payload: "/payload".into(),
        runs,
        memory_mib: MEMORY_MIB,
        cmdline: CMDLINE.to_owned(),
        default_cmdline: payload::default_cmdline()?,
        peers,
        only: arguments.only.clone(),
        profile: arguments.profile,
    };
    payload::lay_out(folder.path(), &cloud_kernel()?, &plan)?;
    payload::lay_out_standard_kernel(folder.path(), &image)?;
    let options = Options {
        processors: 1,
        memory_mib: LAB_MIB,
        share: Some(folder.path().to_owned()),
        accelerator: Accelerator::Counting,
        boot_timeout: Duration::from_secs(600),
        guest_program: Some(build_lab_guest()?),
        ..Options::default()
    };
    eprintln!("bench: booting a lab that counts instructions");
    let lab = Lab::start_image(&image, &options)?;
    eprintln!(
        "bench: it is up after {:.0} s",
        lab.boot_time().as_secs_f64()
    );
    // The monitors run as the ordinary user, who opens these as a member of groups that a started program has not.
    let prepare = "modprobe vhost_vsock; chmod 666 /dev/kvm /dev/vhost-vsock; \
        mount -t debugfs debugfs /sys/kernel/debug";
    lab.text("root", &["sh", "-c", prepare])?;
    let driver = lab
        .command("root", &["lab-vms", "bench", "/payload/plan.json"])
        .spawn()?;
    let measured = collect(&driver);
    match &measured {
        Ok(_) => lab.shut_down()?,
        Err(_) => drop(lab),
    }
    measured
}

/// Puts the figures of the driver together until it ends.
fn collect(driver: &Process) -> Result<Vec<Measured>> {
    let mut measured: Vec<Measured> = Vec::new();
    let mut rest = Vec::new();
    loop {
        let Some(said) = driver.next_output(NEXT)? else {
            bail!("no figure came for {NEXT:?}");
        };
        eprint!("{}", String::from_utf8_lossy(&said.stderr));
        rest.extend_from_slice(&said.stdout);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let figure = serde_json::from_slice(&line)
                .with_context(|| format!("{:?}", String::from_utf8_lossy(&line)))?;
            add(&mut measured, figure);
        }
        match said.exit {
            None => {}
            Some(casemate_lab::wire::Exit::Code(0)) => return Ok(measured),
            Some(other) => bail!("the driver in the lab ended with {other:?}"),
        }
    }
}

/// Adds one figure to its row. A row begins with a figure of ours; what nobody of us can do yet has none.
fn add(measured: &mut Vec<Measured>, figure: Figure) {
    let Figure {
        work,
        unit,
        who,
        value,
    } = figure;
    let value = match value {
        Ok(value) => value,
        Err(reason) => {
            eprintln!("bench: {work} by {who}: no figure: {reason}");
            return;
        }
    };
    eprintln!("bench: {work} by {who}: {value:.2} {unit}");
    let position = measured.iter().position(|row| row.work == work);
    let row = match position {
        Some(position) => measured.get_mut(position),
        None if who == OURS => {
            measured.push(Measured {
                work: work.clone(),
                unit: unit_name(&unit),
                ours: Vec::new(),
                peers: BTreeMap::new(),
            });
            measured.last_mut()
        }
        None => None,
    };
    match row {
        Some(row) if who == OURS => row.ours.push(value),
        Some(row) => row.peers.entry(who).or_default().push(value),
        None => eprintln!("bench: {work} by {who} is left out: there is none of ours beside it"),
    }
}

/// The units that the driver uses.
fn unit_name(unit: &str) -> &'static str {
    match unit {
        "Minstr" => "Minstr",
        "kinstr" => "kinstr",
        "MiB" => "MiB",
        "exits" => "exits",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(work: &str, who: &str, value: Result<f64, String>) -> Figure {
        Figure {
            work: work.to_owned(),
            unit: "Minstr".to_owned(),
            who: who.to_owned(),
            value,
        }
    }

    #[test]
    fn figures_become_rows_and_what_failed_is_left_out() {
        let mut rows = Vec::new();
        for one in [
            figure("boot", OURS, Ok(3.0)),
            figure("boot", OURS, Ok(1.0)),
            figure("boot", "qemu-q35", Ok(5.0)),
            figure("boot", "qemu-microvm", Err("it does not boot".to_owned())),
            figure("restore", OURS, Err("not yet".to_owned())),
            figure("restore", "other", Ok(1.0)),
        ] {
            add(&mut rows, one);
        }
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0].ours, [3.0, 1.0]);
        assert_eq!(rows[0].unit, "Minstr");
        assert_eq!(
            rows[0].peers,
            BTreeMap::from([("qemu-q35".to_owned(), vec![5.0])])
        );
    }
}
