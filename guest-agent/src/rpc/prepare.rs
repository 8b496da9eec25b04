//! From the text of an EXEC frame to a process ready to start, or to the exit code that says why not.

use std::{ffi::OsStr, fmt::Display, os::unix::ffi::OsStrExt, process::Command};

use casemate_qrexec_wire::{CommandLine, Execute, RequestedTarget, Work};

use super::{
    account::Account,
    lookup::{LookupError, find_config, find_service},
    serve::{NO_SERVICE, TROUBLE},
    settings::Settings,
};

/// Makes the command of a call: a line for the account's shell, or a service with its environment (specification of
/// qrexec, 1.5).
///
/// # Errors
/// The exit code of a call that cannot be served.
pub(crate) fn prepare(line: &CommandLine, settings: &Settings) -> Result<Command, i32> {
    let execute = Execute::parse(line).map_err(|error| trouble(&error))?;
    match execute.work {
        Work::Shell(line) => {
            let account = account(&execute.user, settings)?;
            let mut command = account.command(&account.shell());
            command.arg("-c").arg(OsStr::from_bytes(&line));
            Ok(command)
        }
        Work::Service {
            call,
            source,
            target,
        } => service(
            settings,
            &execute.user,
            execute.nogui,
            &call,
            &source,
            target,
        ),
    }
}

fn service(
    settings: &Settings,
    user: &str,
    nogui: bool,
    call: &str,
    source: &str,
    target: Option<RequestedTarget>,
) -> Result<Command, i32> {
    let code = |error: LookupError| match error {
        LookupError::Missing => NO_SERVICE,
        LookupError::Broken(what) => trouble(&what),
    };
    let program = find_service(&settings.services, call).map_err(code)?;
    let config = find_config(&settings.configs, call).map_err(code)?;
    let account = account(config.force_user.as_deref().unwrap_or(user), settings)?;
    if config.wait_for_session && !nogui {
        crate::services::session::wait();
    }
    let mut command = account.command(&program.to_string_lossy());
    if let Some((_, argument)) = call.split_once('+') {
        command.env("QREXEC_SERVICE_ARGUMENT", argument);
        if !argument.is_empty() {
            command.arg(argument);
        }
    }
    command
        .env("QREXEC_SERVICE_FULL_NAME", call)
        .env("QREXEC_REMOTE_DOMAIN", source)
        .env("QREXEC_AGENT_PID", std::process::id().to_string())
        .envs(settings.transport.environment())
        .env("CASEMATE_AGENT_SOCKET", &settings.agent_socket);
    match target {
        None => command.env("QREXEC_REQUESTED_TARGET_TYPE", ""),
        Some(RequestedTarget { kind, target }) => {
            let key = if kind == "keyword" {
                "QREXEC_REQUESTED_TARGET_KEYWORD"
            } else {
                "QREXEC_REQUESTED_TARGET"
            };
            command
                .env("QREXEC_REQUESTED_TARGET_TYPE", kind)
                .env(key, target)
        }
    };
    Ok(command)
}

fn account(user: &str, settings: &Settings) -> Result<Account, i32> {
    let name = if user == "DEFAULT" {
        &settings.user
    } else {
        user
    };
    Account::find(name).map_err(|error| trouble(&error))
}

fn trouble(why: &dyn Display) -> i32 {
    tracing::warn!(%why, "a call cannot be served");
    TROUBLE
}
