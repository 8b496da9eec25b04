//! The command line of EXEC_CMDLINE and JUST_EXEC: who runs what.

use crate::{frame::Malformed, limits::MAX_COMMAND_FRAME, params::ExecParams};

/// A command line as bytes, without NUL, short enough for a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine(Vec<u8>);

impl CommandLine {
    /// Longest command line in bytes.
    pub const MAX: usize = MAX_COMMAND_FRAME - ExecParams::LEN - 1;

    /// Checks a command line.
    ///
    /// # Errors
    /// [`Malformed::Text`] when it holds a NUL or is longer than [`CommandLine::MAX`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, Malformed> {
        let bytes = bytes.into();
        if bytes.len() > Self::MAX || bytes.contains(&0) {
            return Err(Malformed::Text);
        }
        Ok(Self(bytes))
    }

    /// The command line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What an agent is asked to execute: the meaning of a [`CommandLine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    /// The user in the VM; `DEFAULT` is the VM's default user.
    pub user: String,
    /// Do not wait for the person's graphical session.
    pub nogui: bool,
    /// What to run.
    pub work: Work,
}

/// A shell command or a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A line for the user's login shell.
    Shell(Vec<u8>),
    /// A service.
    Service {
        /// Service and argument as one text; the caller is trusted to have checked it, the agent looks it up as a file name.
        call: String,
        /// Name of the calling domain.
        source: String,
        /// What the caller asked to reach; only calls into the admin domain carry it.
        target: Option<RequestedTarget>,
    },
}

/// What a caller of the admin domain asked to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedTarget {
    /// `name` or `keyword`.
    pub kind: String,
    /// The name, or the keyword without its `@`.
    pub target: String,
}

/// Why a command line has no meaning. The call ends with exit code 125.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// No `user:` in front.
    #[error("the command line names no user")]
    NoUser,
    /// A user or service call that is not UTF-8.
    #[error("the command line is not text")]
    NotText,
    /// Not one or three fields behind the service.
    #[error("a service call has a source, or a source, a type and a target")]
    Fields,
}

impl Execute {
    /// The word that makes a command a service call.
    const SERVICE_WORD: &str = "QUBESRPC ";
    const NOGUI: &[u8] = b"nogui:";

    /// Reads a command line.
    ///
    /// # Errors
    /// [`InvalidCommand`].
    pub fn parse(line: &CommandLine) -> Result<Self, InvalidCommand> {
        let line = line.as_bytes();
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(InvalidCommand::NoUser)?;
        let (user, rest) = line.split_at(colon);
        let user = text(user)?;
        if user.is_empty() {
            return Err(InvalidCommand::NoUser);
        }
        let rest = rest.get(1..).unwrap_or_default();
        let (nogui, rest) = match rest.strip_prefix(Self::NOGUI) {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let work = match rest.strip_prefix(Self::SERVICE_WORD.as_bytes()) {
            Some(fields) => service(&text(fields)?)?,
            None => Work::Shell(rest.to_vec()),
        };
        Ok(Self { user, nogui, work })
    }

    /// Writes the command line.
    ///
    /// # Errors
    /// [`Malformed::Text`] when a part holds a NUL or all of it is too long.
    pub fn command_line(&self) -> Result<CommandLine, Malformed> {
        let mut line = Vec::with_capacity(64);
        line.extend_from_slice(self.user.as_bytes());
        line.push(b':');
        if self.nogui {
            line.extend_from_slice(Self::NOGUI);
        }
        match &self.work {
            Work::Shell(command) => line.extend_from_slice(command),
            Work::Service {
                call,
                source,
                target,
            } => {
                line.extend_from_slice(format!("{}{call} {source}", Self::SERVICE_WORD).as_bytes());
                if let Some(RequestedTarget { kind, target }) = target {
                    line.extend_from_slice(format!(" {kind} {target}").as_bytes());
                }
            }
        }
        CommandLine::new(line)
    }
}

fn text(bytes: &[u8]) -> Result<String, InvalidCommand> {
    String::from_utf8(bytes.to_vec()).map_err(|_| InvalidCommand::NotText)
}

fn service(fields: &str) -> Result<Work, InvalidCommand> {
    let fields: Vec<&str> = fields.split(' ').collect();
    let (call, source, target) = match *fields.as_slice() {
        [call, source] => (call, source, None),
        [call, source, kind, target] => (
            call,
            source,
            Some(RequestedTarget {
                kind: kind.to_owned(),
                target: target.to_owned(),
            }),
        ),
        _ => return Err(InvalidCommand::Fields),
    };
    if call.is_empty() || source.is_empty() {
        return Err(InvalidCommand::Fields);
    }
    Ok(Work::Service {
        call: call.to_owned(),
        source: source.to_owned(),
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[u8]) -> Result<Execute, InvalidCommand> {
        Execute::parse(&CommandLine::new(line).unwrap())
    }

    fn rpc(source: &str, target: Option<(&str, &str)>) -> Execute {
        Execute {
            user: "user".to_owned(),
            nogui: false,
            work: Work::Service {
                call: "qubes.Filecopy+x".to_owned(),
                source: source.to_owned(),
                target: target.map(|(kind, target)| RequestedTarget {
                    kind: kind.to_owned(),
                    target: target.to_owned(),
                }),
            },
        }
    }

    #[test]
    fn command_lines_are_understood_and_written_alike() {
        let shell = |user: &str, nogui, command: &[u8]| Execute {
            user: user.to_owned(),
            nogui,
            work: Work::Shell(command.to_vec()),
        };
        for (line, expected) in [
            (&b"user:uname -a"[..], shell("user", false, b"uname -a")),
            (
                b"DEFAULT:nogui:a:b \xff",
                shell("DEFAULT", true, b"a:b \xff"),
            ),
            (b"root:", shell("root", false, b"")),
            (b"user:QUBESRPC qubes.Filecopy+x work", rpc("work", None)),
            (
                b"user:QUBESRPC qubes.Filecopy+x work keyword dispvm",
                rpc("work", Some(("keyword", "dispvm"))),
            ),
        ] {
            assert_eq!(parse(line).as_ref(), Ok(&expected));
            assert_eq!(expected.command_line().unwrap().as_bytes(), line);
        }
    }

    #[test]
    fn hostile_command_lines_are_refused() {
        for (line, error) in [
            (&b"uname"[..], InvalidCommand::NoUser),
            (b"", InvalidCommand::NoUser),
            (b":uname", InvalidCommand::NoUser),
            (b"\xff:x", InvalidCommand::NotText),
            (b"u:QUBESRPC a", InvalidCommand::Fields),
            (b"u:QUBESRPC a b c", InvalidCommand::Fields),
            (b"u:QUBESRPC a b c d e", InvalidCommand::Fields),
            (b"u:QUBESRPC  b", InvalidCommand::Fields),
            (b"u:QUBESRPC a\xff b", InvalidCommand::NotText),
        ] {
            assert_eq!(parse(line), Err(error), "{line:?}");
        }
        assert!(CommandLine::new(&b"a\0b"[..]).is_err());
        assert!(CommandLine::new(vec![b'a'; CommandLine::MAX + 1]).is_err());
    }
}
