//! `lab-guest`: process 1 of the lab. It collects orphans, and a second copy of it (`serve`) runs
//! what the test asks for over the virtio port. When the server ends, the lab is switched off.
//!
//! It is part of the test bench, not of Casemate: it runs anything it is told, as anyone.
#![expect(
    clippy::print_stderr,
    reason = "the lab's serial log is where it can complain"
)]

mod account;
mod serve;

use std::process::{Command, ExitCode};

use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

fn main() -> ExitCode {
    let serving = std::env::args().nth(1).as_deref() == Some("serve");
    let result = if serving { serve::run() } else { collect() };
    if let Err(error) = result {
        eprintln!("lab-guest: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The work of process 1: nobody else collects a daemon whose parent has gone, and a dead process
/// that nobody collects looks alive to whoever asks for it by number.
fn collect() -> anyhow::Result<()> {
    let server = Command::new("/proc/self/exe").arg("serve").spawn()?.id();
    while let Ok(ended) = wait(WaitOptions::empty()) {
        let ended = ended.and_then(|(pid, _)| u32::try_from(pid.as_raw_nonzero().get()).ok());
        if ended == Some(server) {
            break;
        }
    }
    reboot(RebootCommand::PowerOff)?;
    Ok(())
}
