//! The command line. Written by the supervisor, not by a person.

use std::ffi::OsString;
use std::os::fd::RawFd;

use anyhow::Result;

use crate::jail::OwnUser;
use crate::report::Usage;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
casemate-vmm --launch FD [--no-namespaces | --own-user UID:GID]

Runs one VM. FD holds the launch description (JSON); it names every other descriptor.
Prints {\"pid\":N} when the VM runs; the process N goes on in the background.

  --no-namespaces  run where user namespaces are forbidden: system call filters and
                   empty capabilities still apply, but the host's files, network and
                   processes stay in sight
  --own-user UID:GID
                   be this user and group, of those that the host has granted to
                   whoever starts it (subuid(5)), instead of the same user
  --version        print the version

Exit codes: 0 started (of N: guest powered off or was killed), 1 failed, 2 usage,
3 guest asked for a reset (of N), 8 no usable KVM.";

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Run a VM.
    Launch {
        /// Descriptor of the launch description.
        description: RawFd,
        /// Whether namespaces are made.
        namespaces: bool,
        /// Who it is in them.
        own_user: Option<OwnUser>,
    },
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Parses the arguments without the program's name.
///
/// # Errors
/// [`Usage`].
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut arguments = arguments.into_iter();
    let (mut description, mut namespaces, mut own_user) = (None, true, None);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--launch") => {
                let number = arguments
                    .next()
                    .and_then(|value| value.to_str()?.parse().ok())
                    .ok_or(Usage("--launch needs the number of a descriptor"))?;
                description = Some(number);
            }
            Some("--no-namespaces") => namespaces = false,
            Some("--own-user") => {
                let own = arguments
                    .next()
                    .and_then(|value| parse_own_user(value.to_str()?))
                    .ok_or(Usage("--own-user needs UID:GID"))?;
                own_user = Some(own);
            }
            Some("--help" | "-h") => return Ok(Command::Help),
            Some("--version") => return Ok(Command::Version),
            _ => return Err(Usage("unknown argument").into()),
        }
    }
    let description = description.ok_or(Usage("--launch FD is missing"))?;
    if own_user.is_some() && !namespaces {
        return Err(Usage("--own-user needs namespaces").into());
    }
    Ok(Command::Launch {
        description,
        namespaces,
        own_user,
    })
}

fn parse_own_user(text: &str) -> Option<OwnUser> {
    let (user, group) = text.split_once(':')?;
    Some(OwnUser {
        user: user.parse().ok()?,
        group: group.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        for (line, expected) in [
            (&["--launch", "7"][..], Some((7, true, None))),
            (
                &["--no-namespaces", "--launch", "3"],
                Some((3, false, None)),
            ),
            (
                &["--launch", "3", "--own-user", "100003:200003"],
                Some((3, true, Some((100_003, 200_003)))),
            ),
            (&["--launch", "3", "--own-user", "100003"], None),
            (&["--launch", "3", "--own-user", "-1:0"], None),
            (
                &["--launch", "3", "--own-user", "1:1", "--no-namespaces"],
                None,
            ),
            (&["--launch"], None),
            (&["--launch", "x"], None),
            (&["--launch", "3", "rest"], None),
            (&[], None),
        ] {
            let parsed = parse(line.iter().map(OsString::from)).ok();
            let expected = expected.map(|(description, namespaces, own)| Command::Launch {
                description,
                namespaces,
                own_user: own.map(|(user, group)| OwnUser { user, group }),
            });
            assert_eq!(parsed, expected, "{line:?}");
        }
    }
}
