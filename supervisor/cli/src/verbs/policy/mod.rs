//! `casemate policy`: read, check, explain and change the rules that decide which VM may call which service where.

mod edit;
mod eval;
mod explain;
mod lint;
mod reach;
mod rules;
mod test;

use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;

/// Check, explain and change the rules that say which VM may call which service where
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    Lint(lint::Args),
    Explain(explain::Args),
    Edit(edit::Args),
    Eval(eval::Args),
    Test(test::Args),
    Reach(reach::Args),
}

impl Args {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Lint(args) => args.run().await,
            Self::Explain(args) => args.run().await,
            Self::Edit(args) => args.run().await,
            Self::Eval(args) => args.run().await,
            Self::Test(args) => args.run().await,
            Self::Reach(args) => args.run().await,
        }
    }
}
