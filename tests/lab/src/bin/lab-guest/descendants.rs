//! Everything that was started by us or by what we started, daemons too: kept together, and ended.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

/// Makes us the parent of descendants whose parent has gone.
pub(crate) fn adopt() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("cannot take over orphans")
}

/// Runs a copy of us that serves, to its end, and collects every child meanwhile. Nobody else collects a
/// daemon whose parent has gone, and a dead process that nobody collects looks alive to whoever asks for it
/// by number.
pub(crate) fn collect_until_end_of(serve: &str) -> Result<()> {
    let server = Command::new("/proc/self/exe").arg(serve).spawn()?.id();
    while let Ok(ended) = wait(WaitOptions::empty()) {
        let ended = ended.and_then(|(pid, _)| u32::try_from(pid.as_raw_nonzero().get()).ok());
        if ended == Some(server) {
            break;
        }
    }
    Ok(())
}

/// Ends all descendants: each child that is killed leaves us its own children, until there are none.
pub(crate) fn end() -> Result<()> {
    loop {
        for child in children()? {
            // It may just have ended.
            let _ = kill_process(child, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Err(Errno::CHILD) => return Ok(()),
            Err(Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error).context("cannot wait for programs to end"),
        }
    }
}

fn children() -> Result<Vec<Pid>> {
    let us = getpid().as_raw_nonzero().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // Other processes come and go meanwhile.
        let Ok(stat) = entry.and_then(|entry| fs::read_to_string(entry.path().join("stat"))) else {
            continue;
        };
        // `1234 (any name) S PARENT ...`: the name may hold spaces and brackets of its own.
        let number = stat.split(' ').next().and_then(|word| word.parse().ok());
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent == Some(us.as_str()) {
            found.extend(number.and_then(Pid::from_raw));
        }
    }
    Ok(found)
}
