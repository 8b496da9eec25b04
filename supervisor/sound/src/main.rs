//! The mixer: the only process of Casemate that talks to PipeWire.
//!
//! Its standard input is a sequenced-packet socket of the supervisor, over which come orders and the VMs' sockets. Each
//! VM and direction has a thread with a connection of its own to PipeWire, so that what one VM does is no other's trouble.
//! The mixer ends when the supervisor's socket does: whoever granted is there as long as the grant.
#![deny(clippy::indexing_slicing, clippy::panic)]

mod convert;
mod host;
mod line;
mod orders;
mod sandbox;
mod serve;
mod server;

use std::{io::IsTerminal as _, os::fd::AsFd as _, process::ExitCode};

use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    if let Err(error) = sandbox::enter() {
        tracing::error!("the mixer cannot give up what it does not need: {error:#}");
        return ExitCode::FAILURE;
    }
    pipewire::init();
    let supervisor = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => socket.into(),
        Err(error) => {
            tracing::error!(%error, "no standard input; it has to be a socket of the supervisor");
            return ExitCode::FAILURE;
        }
    };
    match orders::follow(supervisor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the supervisor's socket gave no order; the mixer ends");
            ExitCode::FAILURE
        }
    }
}
