//! The command line: everything a person does. It keeps no state; one file per verb, whose doc comment is its help.
#![expect(
    clippy::print_stderr,
    reason = "errors, prompts and progress go to stderr; stdout carries data only"
)]

mod audit_log;
mod call;
mod failure;
mod filecopy;
mod format;
mod output;
mod progress;
mod session;
mod shell;
mod terminal;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use verbs::Verb;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 wrong state or exists already, 5 denied by policy,
6 refused by a person, 7 busy, 8 no resources (KVM, memory, disk space), 124 took too long.
`run` and `open`: 125 when Casemate failed before the program ran, 255 when the VM was lost, otherwise the program's code.";

/// Compartments for your work: VMs with coloured windows, joined by policy.
#[derive(Debug, Parser)]
#[command(name = "casemate", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("casemate: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(arguments.verb.run());
    // A thread may still wait for the terminal's input; nobody wants it any more.
    runtime.shutdown_background();
    result.unwrap_or_else(|failure| failure.report())
}
