//! A user of its own for a vmm: one number of those that the host has granted to whoever runs us (subuid(5)).
//!
//! A process outside of the new user namespace writes its maps: directly where it may (root), else by the host's
//! `newuidmap` and `newgidmap`, which look up what was granted.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::fork::{self, Child, Forked};
use super::{JailError, step};

/// Numbers on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnUser {
    /// Of the user.
    pub(crate) user: u32,
    /// Of the group.
    pub(crate) group: u32,
}

/// The process outside, waiting to be told that the namespace is there.
pub(super) struct Mapper {
    own: OwnUser,
    child: Child,
    channel: UnixStream,
}

impl Mapper {
    /// Forks it off. Called while there is one thread.
    pub(super) fn start(own: OwnUser) -> Result<Self, JailError> {
        let (channel, mut theirs) = step("make a socket", UnixStream::pair())?;
        let process = std::process::id();
        match step("fork", fork::fork())? {
            Forked::Parent(child) => Ok(Self {
                own,
                child,
                channel,
            }),
            Forked::Child => {
                drop(channel);
                // When we are not told, whoever waits for us has gone.
                let mapped = theirs.read_exact(&mut [0]).is_ok() && map(process, own).is_ok();
                end(mapped)
            }
        }
    }

    /// Has the maps of this process's new namespace written and becomes the one user in it. False when the host did not
    /// do it; there are no maps then.
    pub(super) fn finish(mut self) -> Result<bool, JailError> {
        step("ask for a user of its own", self.channel.write_all(&[1]))?;
        let code = step("wait for a user of its own", self.child.wait())?;
        if code != ExitCode::SUCCESS {
            tracing::warn!(
                user = self.own.user,
                group = self.own.group,
                "the host refuses a user of its own (see newuidmap(1) and /etc/subuid); it stays the user who starts it"
            );
            return Ok(false);
        }
        step("leave all groups", set_thread_groups(&[]))?;
        let group = Gid::from_raw(self.own.group);
        step(
            "become a group of its own",
            set_thread_res_gid(group, group, group),
        )?;
        let user = Uid::from_raw(self.own.user);
        step(
            "become a user of its own",
            set_thread_res_uid(user, user, user),
        )?;
        Ok(true)
    }
}

#[expect(clippy::exit, reason = "a helper process ends here")]
fn end(mapped: bool) -> ! {
    std::process::exit(i32::from(!mapped))
}

fn map(process: u32, own: OwnUser) -> io::Result<()> {
    for (kind, number) in [("uid", own.user), ("gid", own.group)] {
        let line = format!("{number} {number} 1");
        if std::fs::write(format!("/proc/{process}/{kind}_map"), line).is_ok() {
            continue;
        }
        let status = Command::new(format!("/usr/bin/new{kind}map"))
            .arg(process.to_string())
            .args([number.to_string(), number.to_string(), "1".to_owned()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(io::Error::other("refused"));
        }
    }
    Ok(())
}
