//! The broker: control stream of every VM, policy, prompts, pairing of data streams.
//!
//! It knows who calls from the link that the supervisor made, judges each call by the policy files as they are at
//! that moment, and then steps aside: data flows between the two VMs' vmms over a socket pair. It opens no disk,
//! starts no VM by itself and never sees a byte of a call's data.

mod arguments;
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

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
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
