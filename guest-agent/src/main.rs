//! In the VM, as root: services, file copy, volumes; trusts nothing from the network.

mod boot;
mod options;
mod rpc;
mod services;
mod tools;

use std::{io::IsTerminal, process::ExitCode};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        // What a service says goes to its caller, who may be a file.
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    let options = match options::parse() {
        Ok(options) => options,
        Err(code) => return ExitCode::from(code),
    };
    let failure = options.failure();
    options.run().map_or_else(
        |error| {
            tracing::error!("{error:#}");
            ExitCode::from(failure)
        },
        ExitCode::from,
    )
}
