//! The works by their names on the kernel's command line.

use std::time::Duration;

use anyhow::Result;
use casemate_lab_vms::guest::{BEAT, BEGINS, CPUS, FAILED, FRAMES, ONLY, PAUSE, SENDS, TOOK, WORK};

use super::{bell, disk, frames, modules, stream};

/// A name, the number of operations, and what measures one.
type Work = (&'static str, u32, fn() -> Result<Duration>);

/// How long the guest is silent around a work, when it is to be: far longer than the lab takes to look.
const SILENCE: Duration = Duration::from_millis(300);

/// Does what the kernel's command line asks for.
pub(super) fn run() -> Result<()> {
    modules::mount("proc", "/proc")?;
    let line = std::fs::read_to_string("/proc/cmdline")?;
    let name = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(WORK));
    match name {
        Some("beat") => beat(),
        Some("devices") => devices(&line),
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
fn devices(line: &str) -> Result<()> {
    let only = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(ONLY));
    let pauses = line.split_whitespace().any(|word| word == PAUSE);
    let silence = || {
        if pauses {
            std::thread::sleep(SILENCE);
        }
    };
    modules::mount("sysfs", "/sys")?;
    modules::mount("devtmpfs", "/dev")?;
    modules::load()?;
    let works: [Work; 4] = [
        ("doorbell", bell::RINGS, bell::ring),
        ("blk-read-4k", disk::READS, disk::read),
        ("vsock-send-64k", SENDS, stream::send),
        ("net-send-1500", FRAMES, frames::send),
    ];
    for (name, count, measure) in works {
        if only.is_some_and(|only| only.split(',').all(|wanted| wanted != name)) {
            continue;
        }
        println!("{BEGINS} {name} {count}");
        silence();
        match measure() {
            Ok(each) => println!("{TOOK} {name} {}", each.as_nanos()),
            Err(error) => println!("{FAILED} {name}: {error:#}"),
        }
        silence();
    }
    Ok(())
}
