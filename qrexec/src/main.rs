//! The broker: control stream of every VM, policy, prompts, pairing of data streams.
//!
//! It knows who calls from the link that the supervisor made, judges each call by the policy files as they are at
//! that moment, and then steps aside: data flows between the two VMs' vmms over a socket pair. It opens no disk,
//! starts no VM by itself and never sees a byte of a call's data.

mod ask;
mod audit;
mod broker;
mod bus;
mod call;
mod facts;
mod limits;
mod peers;
mod policies;
mod sandbox;
mod serve;
mod session;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Judges and connects the calls between VMs. Started by casemated.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of the sockets of Casemate.
    #[arg(long, value_name = "DIR")]
    runtime: PathBuf,
    /// Directory of policy files, strongest first; may be given several times.
    #[arg(long, value_name = "DIR", required = true)]
    policy: Vec<PathBuf>,
    /// Directory of the audit log.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        runtime,
        policy,
        state,
    } = arguments;
    // Before the runtime starts threads: a thread keeps the rights that it had when the sandbox began.
    sandbox::enter(runtime, policy, state)?;
    let executor = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    executor.block_on(serve::serve(runtime, policy, state))
}
