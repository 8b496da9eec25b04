//! The environment that an account's login shell makes, asked for once instead of starting that shell for each call.

use std::{
    ffi::{OsStr, OsString},
    io::Read,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process_group},
};

/// A profile that takes longer than this is done without: a call must not wait for it.
const LONGEST: Duration = Duration::from_secs(3);

/// Longest environment that is taken over: a profile cannot make each later call carry more.
const MAX_ENVIRONMENT: usize = 64 * 1024;

/// Variables that belong to that shell, not to the session.
const OF_THE_SHELL: [&str; 4] = ["_", "SHLVL", "PWD", "OLDPWD"];

/// Runs `shell` as a login shell and returns its environment; `None` when it gives none in time.
pub(super) fn environment(shell: &mut Command) -> Option<Vec<(OsString, OsString)>> {
    let mut child = shell
        .args(["-l", "-c", "exec env -0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let gathered = child.stdout.take().and_then(|mut pipe| {
        let deadline = Instant::now() + LONGEST;
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&Timespec::try_from(left).ok()?)).ok()?;
            let read = if ready == 0 {
                return None;
            } else {
                pipe.read(&mut buffer).ok()?
            };
            if read == 0 {
                return Some(text);
            }
            text.extend_from_slice(buffer.get(..read)?);
            if text.len() > MAX_ENVIRONMENT {
                return None;
            }
        }
    });
    if gathered.is_none()
        && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
    {
        // What hangs in a profile would stay behind.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let ended_well = child.wait().is_ok_and(|status| status.success());
    parse(&gathered?).filter(|_| ended_well)
}

/// `NAME=VALUE` between NULs; nothing when no `PATH` is among them.
fn parse(text: &[u8]) -> Option<Vec<(OsString, OsString)>> {
    let variables: Vec<(OsString, OsString)> = text
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let equals = entry.iter().position(|byte| *byte == b'=')?;
            let (name, value) = entry.split_at(equals);
            let own = name.is_empty()
                || name.starts_with(b"QREXEC")
                || OF_THE_SHELL.iter().any(|shell| shell.as_bytes() == name);
            (!own).then(|| {
                let value = value.get(1..).unwrap_or_default();
                (
                    OsStr::from_bytes(name).into(),
                    OsStr::from_bytes(value).into(),
                )
            })
        })
        .collect();
    variables
        .iter()
        .any(|(name, _)| name == "PATH")
        .then_some(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_taken_over_without_what_belongs_to_the_shell() {
        let text =
            b"PATH=/bin\0_=/usr/bin/env\0QREXEC_REMOTE_DOMAIN=evil\0A=b=c\nd\0SHLVL=1\0broken\0";
        let expected = [("PATH", "/bin"), ("A", "b=c\nd")];
        assert_eq!(
            parse(text).unwrap(),
            expected.map(|(name, value)| (name.into(), value.into()))
        );
        assert_eq!(parse(b"A=b\0"), None, "a session without PATH is none");
    }

    #[test]
    fn a_shell_that_fails_or_hangs_gives_nothing() {
        for program in ["/bin/false", "/no/such/shell"] {
            assert_eq!(environment(&mut Command::new(program)), None, "{program}");
        }
        let begun = Instant::now();
        let mut hanging = Command::new("/bin/sh");
        assert_eq!(environment(hanging.args(["-c", "sleep 60"])), None);
        assert!(begun.elapsed() < LONGEST + Duration::from_secs(5));
        assert!(environment(&mut Command::new("/bin/sh")).is_some());
    }
}
