//! The broker: control stream of every VM, policy, prompts, pairing of data streams. It knows who calls from the link that
//! the supervisor made, judges by the policy files of that moment, and never sees a byte of a call's data.

mod alone;
mod arguments;
mod ask;
mod audit;
mod broker;
mod bus;
mod call;
mod client;
mod errand;
mod grants;
mod limits;
mod live;
mod local;
mod peers;
mod policies;
mod question;
mod run;
mod sandbox;
mod serve;
mod serve_vchan;
mod session;
#[cfg(test)]
mod tests;
mod vchan;

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Arguments, Mode};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A client has no log: to set one up would take a good part of its call.
    let serves = !matches!(arguments.mode, Some(Mode::CallVchan(_)));
    if serves {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .init();
    }
    match run::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            if serves {
                tracing::error!("{error:#}");
            } else {
                client::complain(&error);
            }
            ExitCode::from(client::TROUBLE)
        }
    }
}
