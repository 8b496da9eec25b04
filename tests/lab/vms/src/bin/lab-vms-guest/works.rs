//! The works by their names on the kernel's command line.

use std::time::Duration;

use anyhow::Result;
use casemate_lab_vms::guest::{BEAT, CPUS, FAILED, TOOK, WORK};

use super::{bell, disk, frames, modules, stream};

/// A name, and what measures one operation.
type Work = (&'static str, fn() -> Result<Duration>);

/// Does what the kernel's command line asks for.
pub(super) fn run() -> Result<()> {
    modules::mount("proc", "/proc")?;
    let line = std::fs::read_to_string("/proc/cmdline")?;
    let name = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(WORK));
    match name {
        Some("beat") => beat(),
        Some("devices") => devices(),
        Some("count") => count(),
        _ => Ok(()),
    }
}

/// Counts for ever without sleeping: the next number after a pause comes as soon as the guest runs, and what it does
/// between two numbers is nothing beside what a restore takes.
fn beat() -> ! {
    let mut number = 0_u64;
    loop {
        println!("{BEAT} {number}");
        number += 1;
        for turn in 0..5_000_u32 {
            std::hint::black_box(turn);
        }
    }
}

/// Counts the processors that are running, and powers off.
fn count() -> Result<()> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let count = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    println!("{CPUS} {count}");
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
    Ok(())
}

/// Uses each device for a while.
fn devices() -> Result<()> {
    modules::mount("sysfs", "/sys")?;
    modules::mount("devtmpfs", "/dev")?;
    modules::load()?;
    let works: [Work; 4] = [
        ("doorbell", bell::ring),
        ("blk-read-4k", disk::read),
        ("vsock-send-64k", stream::send),
        ("net-send-1500", frames::send),
    ];
    for (name, once) in works {
        match once() {
            Ok(each) => println!("{TOOK} {name} {}", each.as_nanos()),
            Err(error) => println!("{FAILED} {name}: {error:#}"),
        }
    }
    Ok(())
}
