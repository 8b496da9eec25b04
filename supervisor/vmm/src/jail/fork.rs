//! One fork, of a process with one thread.
#![expect(unsafe_code, reason = "fork is unsafe when there are other threads")]

use std::io;
use std::process::ExitCode;

use rustix::process::{Pid, WaitOptions, waitpid};

/// On which side of the fork we are.
#[derive(Debug)]
pub(super) enum Forked {
    /// In the process that called.
    Parent(Child),
    /// In the new one.
    Child,
}

/// The new process, seen from outside.
#[derive(Debug)]
pub(super) struct Child(Pid);

/// Forks. Only called while this process has one thread.
pub(super) fn fork() -> io::Result<Forked> {
    // SAFETY: no other thread exists that could hold a lock of the allocator or of the standard library at this moment.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        None => Ok(Forked::Child),
        Some(_) if pid < 0 => Err(io::Error::last_os_error()),
        Some(pid) => Ok(Forked::Parent(Child(pid))),
    }
}

impl Child {
    /// Its process id, as we see it.
    pub(super) fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().cast_unsigned()
    }

    /// Waits for its end; its exit code, or failure when a signal ended it.
    pub(super) fn wait(&self) -> io::Result<ExitCode> {
        loop {
            match waitpid(Some(self.0), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    let code = status
                        .exit_status()
                        .and_then(|code| u8::try_from(code).ok());
                    return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
