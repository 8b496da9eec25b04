//! In the VM, as root: services, file copy, volumes; trusts nothing from the network.

mod boot;
mod filecopy;
mod options;
mod rpc;
mod services;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    match options::parse().run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(1)
        }
    }
}
