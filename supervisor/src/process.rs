//! A process that is not our child: known by pid and start time, watched and ended through a pidfd.

use std::{fs, io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::watched::{Watched, watch};

/// Names one process for as long as the machine is up: a pid is used again, a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessId {
    /// Number on the host.
    pub(crate) pid: u32,
    /// Clock ticks after boot at which it started.
    pub(crate) started: u64,
}

/// A process that was alive when it was opened.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    fd: Watched<OwnedFd>,
}

impl Process {
    /// Opens a process by its number and notes when it started.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other(format!("{pid} is not a process id")))?;
        let fd = pidfd_open(number, PidfdFlags::empty())?;
        // Read while the pidfd holds the number: it cannot be another process's.
        let started = start_time(pid)?;
        let process = Self {
            id: ProcessId { pid, started },
            fd: watch(fd)?,
        };
        if process.has_ended() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(process)
    }

    /// Opens the process that `id` names; an error when it has ended, also when its number has a new owner.
    pub(crate) fn reopen(id: ProcessId) -> io::Result<Self> {
        let process = Self::open(id.pid)?;
        if process.id == id {
            Ok(process)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// Returns when the process has ended. May be dropped and called again.
    pub(crate) async fn ended(&self) {
        // An error of the reactor would mean that the runtime is going down with us.
        let _ = self.fd.readable().await;
    }

    /// Ends the process at once. A process that has ended is no error.
    pub(crate) fn kill(&self) {
        match pidfd_send_signal(self.fd.get_ref().get(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => tracing::error!(pid = self.id.pid, %errno, "cannot kill a vmm"),
        }
    }

    fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self.fd.get_ref().get(), PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(ready) if ready > 0)
    }
}

/// Field 22 of `/proc/PID/stat`; the second field is in parentheses and may hold anything, so count from its end.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let stat = String::from_utf8_lossy(&stat);
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("the process table has another form than expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_not_mistaken_for_a_later_one() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let process = Process::open(child.id()).unwrap();
        let id = process.id();
        Process::reopen(id).unwrap();
        let other = ProcessId {
            started: id.started + 1,
            ..id
        };
        Process::reopen(other).unwrap_err();
        process.kill();
        process.ended().await;
        Process::reopen(id).unwrap_err();
        child.wait().unwrap();
        Process::open(id.pid).unwrap_err();
        process.kill();
    }
}
