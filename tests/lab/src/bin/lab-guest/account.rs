//! How a program comes to run as one of the lab's accounts, with the environment of a login; or as our own.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use casemate_lab::wire::Spawn;

use super::serve::Place;

/// What a test brings comes first, so that it runs its own programs.
const PATH: &str =
    "/payload/bin:/payload:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command that runs `spawn`.
pub(crate) fn command(spawn: &Spawn, place: Place) -> Result<Command> {
    let (program, arguments) = spawn.argv.split_first().context("no program was named")?;
    if place == Place::Here {
        // The test has set our own environment and folder as programs shall have them.
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(spawn.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &spawn.cwd {
            command.current_dir(folder);
        }
        return Ok(command);
    }
    let (uid, home) = entry(&spawn.user)?;
    let mut command = if spawn.user == "root" {
        Command::new(program)
    } else {
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .arg(format!("--reuid={}", spawn.user))
            .arg(format!("--regid={}", spawn.user))
            .args(["--init-groups", "--"])
            .arg(program);
        command
    };
    command
        .args(arguments)
        .current_dir(spawn.cwd.as_deref().unwrap_or(&home))
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &home)
        .env("USER", &spawn.user)
        .env("LOGNAME", &spawn.user)
        .env("SHELL", "/bin/bash")
        .env("LANG", "C.UTF-8")
        .env("XDG_RUNTIME_DIR", format!("/run/user/{uid}"))
        // No logind here: without the hint, libseat would first ask a bus that does not exist.
        .env("LIBSEAT_BACKEND", "seatd")
        .envs(spawn.env.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// User number and home of an account.
fn entry(user: &str) -> Result<(u32, String)> {
    let accounts = fs::read_to_string("/etc/passwd").context("cannot read the accounts")?;
    let line = accounts
        .lines()
        .find(|line| line.split(':').next() == Some(user))
        .with_context(|| format!("the lab has no account {user}"))?;
    let fields: Vec<&str> = line.split(':').collect();
    let [_, _, uid, _, _, home, ..] = fields.as_slice() else {
        anyhow::bail!("the account {user} is damaged");
    };
    Ok((uid.parse()?, (*home).to_owned()))
}
