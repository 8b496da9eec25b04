//! Everything that was started by us or by what we started, daemons too: kept together, and ended.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

/// Makes us the parent of descendants whose parent has gone.
pub(crate) fn adopt() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("cannot take over orphans")
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
