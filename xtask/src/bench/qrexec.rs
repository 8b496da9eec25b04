//! `cargo xtask bench qrexec`: calls between VMs, over Unix sockets, with a process at each end.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, bail};
use clap::Args;

use super::{Measured, median};

/// Calls: what one costs above the start of its service.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Calls of one run.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
}

pub(crate) fn run(arguments: &Arguments, runs: u32) -> Result<Vec<Measured>> {
    let calls = arguments.calls;
    Ok(vec![Measured::new("service-spawn-ms", "ms", runs, || {
        spawn(calls)
    })?])
}

/// Milliseconds to start the smallest service directly and to see its end: what no call can do without.
fn spawn(calls: u32) -> Result<f64> {
    let mut figures = Vec::new();
    for _ in 0..calls {
        let began = Instant::now();
        let status = Command::new("/bin/true").stdin(Stdio::null()).status()?;
        if !status.success() {
            bail!("/bin/true ended with {status}");
        }
        figures.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(&figures))
}
