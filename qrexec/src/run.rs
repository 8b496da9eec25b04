//! Which of the program's ways to run was asked for.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{
    arguments::{Arguments, House, Mode},
    client, sandbox, serve, serve_vchan,
};

/// Runs to the end.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match (arguments.mode, arguments.house) {
        (Some(Mode::CallVchan(call)), _) => client::run(&call).map(ExitCode::from),
        (Some(Mode::ServeVchan(alone)), _) => {
            let executor = executor()?;
            executor.block_on(serve_vchan::run(alone))?;
            Ok(ExitCode::SUCCESS)
        }
        (None, Some(house)) => as_part_of_a_house(&house).map(|()| ExitCode::SUCCESS),
        (None, None) => bail!("nothing to do; see --help"),
    }
}

fn as_part_of_a_house(house: &House) -> Result<()> {
    let House {
        runtime,
        policy,
        state,
    } = house;
    // Before the runtime starts threads: a thread keeps the rights that it had when the sandbox began.
    sandbox::enter(runtime, policy, state)?;
    executor()?.block_on(serve::serve(runtime, policy, state))
}

/// One thread: nothing here computes for long, files of policy are read by threads of their own, and a call that moves from
/// one task to the next would wait each time for another thread to wake up.
fn executor() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let executor = builder.enable_all().build();
    executor.context("cannot start the async runtime")
}
