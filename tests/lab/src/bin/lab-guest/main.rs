//! `lab-guest`: process 1 of the lab. It collects orphans, and a second copy of it (`serve`) runs
//! what the test asks for over the virtio port. When the server ends, the lab is switched off.
//!
//! `lab-guest here` does the same on the machine of the test: the channel is its standard input, and at
//! the end it ends what is left of the programs it started.
//!
//! It is part of the test bench, not of Casemate: it runs anything it is told, as anyone.
#![expect(
    clippy::print_stderr,
    reason = "the lab's serial log is where it can complain"
)]

mod account;
mod descendants;
mod serve;

use std::process::ExitCode;

use rustix::system::{RebootCommand, reboot};

use serve::Place;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("serve") => serve::run(Place::Lab),
        Some("serve-here") => serve::run(Place::Here),
        Some("here") => here(),
        _ => lab(),
    };
    if let Err(error) = result {
        eprintln!("lab-guest: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The work of process 1.
fn lab() -> anyhow::Result<()> {
    descendants::collect_until_end_of("serve")?;
    reboot(RebootCommand::PowerOff)?;
    Ok(())
}

fn here() -> anyhow::Result<()> {
    descendants::adopt()?;
    descendants::collect_until_end_of("serve-here")?;
    descendants::end()
}
