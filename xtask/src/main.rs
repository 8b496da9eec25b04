//! Tasks of the repository: `cargo xtask setup | ci | test | tidy | lab | demo`. One file per task.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it speaks to a person at a terminal"
)]

mod lab;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Casemate repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Lab(lab::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Lab(arguments) => lab::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
