//! Windows of all VMs, borders, prompts, input; parses no Wayland from a VM.
//!
//! One thread owns the screen ([`desktop`]); a second serves the bus ([`bus`]) and talks to the first by messages.
//! Guests reach the first one only through [`session`], which checks every byte.

mod args;
mod backend;
mod bus;
mod desktop;
mod geometry;
mod input;
mod prompt;
mod run;
mod scene;
mod session;
#[cfg(test)]
mod tests;
mod theme;
mod windows;
mod words;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,smithay=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    run::run(&args::Args::parse())
}
