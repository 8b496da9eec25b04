//! The supervisor: VM definitions and life cycle, volumes, D-Bus API. It parses no guest bytes, opens no image and
//! outlives nothing: VMs run on without it, and the next one takes them over.

mod adopt;
mod arguments;
mod attach;
mod bus;
mod calls;
mod cgroup;
mod control;
mod definitions;
mod disposables;
mod driver;
mod durable;
mod handover;
mod house;
mod ids;
mod launch;
mod leftovers;
mod life;
mod listing;
mod located;
mod machine;
mod own_file;
mod paths;
mod pending;
mod process;
mod refusal;
mod run_record;
mod serve;
mod services;
mod settings;
mod spawn;
mod suspend;
mod templates;
mod volumes;
mod warm;
mod watched;

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match arguments::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
