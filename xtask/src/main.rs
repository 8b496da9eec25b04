//! Tasks of the repository: `cargo xtask setup | ci | test | tidy | lab | demo | fuzz | bench`. One file per task.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it speaks to a person at a terminal"
)]

mod bench;
mod ci;
mod demo;
mod fuzz;
mod lab;
mod run;
mod setup;
mod test;
mod tidy;

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
    Setup(setup::Arguments),
    /// Run the gate: tidy, fmt, clippy, tests, doc, deny.
    Ci,
    Test(test::Arguments),
    /// Check the rules of the tree that no compiler knows.
    Tidy,
    Lab(lab::Arguments),
    Demo(demo::Arguments),
    Fuzz(fuzz::Arguments),
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments).map(done),
        Task::Ci => ci::run().map(done),
        Task::Test(arguments) => test::run(&arguments).map(done),
        Task::Tidy => tidy::run().map(done),
        Task::Lab(arguments) => lab::run(arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments).map(done),
        Task::Bench(arguments) => bench::run(&arguments).map(done),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
