//! The verbs, in the order in which help lists them.

mod audit;
mod call;
mod create;
mod doctor;
mod input;
mod kill;
mod logs;
mod ls;
mod open;
mod policy;
mod recording;
mod remove;
mod run;
mod screenshot;
mod show;
mod shutdown;
mod start;
mod status;
mod tag;
mod template;
mod windows;

use std::process::ExitCode;

use clap::Subcommand;
use futures_util::future::join_all;

use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    #[command(subcommand)]
    Template(template::Args),
    Create(create::Args),
    Remove(remove::Args),
    Start(start::Args),
    Shutdown(shutdown::Args),
    Kill(kill::Args),
    Ls(ls::Args),
    Show(show::Args),
    #[command(subcommand)]
    Tag(tag::Args),
    #[command(subcommand)]
    Recording(recording::Args),
    Run(run::Args),
    Open(open::Args),
    Logs(logs::Args),
    Windows(windows::Args),
    Screenshot(screenshot::Args),
    #[command(subcommand)]
    Call(call::Args),
    Audit(audit::Args),
    #[command(subcommand)]
    Policy(policy::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    #[command(subcommand, hide = true)]
    Input(input::Args),
}

impl Verb {
    /// Does it.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Template(args) => args.run().await.map(done),
            Self::Create(args) => args.run().await.map(done),
            Self::Remove(args) => args.run().await.map(done),
            Self::Start(args) => args.run().await.map(done),
            Self::Shutdown(args) => args.run().await.map(done),
            Self::Kill(args) => args.run().await.map(done),
            Self::Ls(args) => args.run().await.map(done),
            Self::Show(args) => args.run().await.map(done),
            Self::Tag(args) => args.run().await.map(done),
            Self::Recording(args) => args.run().await.map(done),
            Self::Run(args) => args.run().await,
            Self::Open(args) => args.run().await,
            Self::Logs(args) => args.run().await.map(done),
            Self::Windows(args) => args.run().await.map(done),
            Self::Screenshot(args) => args.run().await.map(done),
            Self::Call(args) => args.run().await.map(done),
            Self::Audit(args) => args.run().await.map(done),
            Self::Policy(args) => args.run().await,
            Self::Status(args) => args.run().await.map(done),
            Self::Doctor(args) => args.run().await,
            Self::Input(args) => args.run().await.map(done),
        }
    }
}

fn done(_: ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Does something to each of several VMs at once. All failures but the first are told here, the first is returned.
async fn each<'a, F>(names: &'a [String], act: impl Fn(&'a str) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), casemate_api::Error>>,
{
    let results = join_all(names.iter().map(|name| act(name))).await;
    let mut first = None;
    for (name, result) in names.iter().zip(results) {
        if let Err(error) = result {
            let failure = Failure::from(error).about(name);
            match first {
                None => first = Some(failure),
                Some(_) => {
                    failure.report();
                }
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// An exit code of a program in a VM; what does not fit a process's code is a plain failure.
fn program_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Verb::augment_subcommands(clap::Command::new("casemate")).debug_assert();
    }
}
