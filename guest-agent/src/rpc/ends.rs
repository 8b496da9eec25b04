//! What a call is connected to in this VM: the process or socket that serves it.

use std::{os::fd::OwnedFd, process::Child, sync::Arc};

use casemate_qrexec_stream::widen;
use rustix::io::{Errno, read, write};

/// What a data stream is connected to in this VM.
#[derive(Debug)]
pub(super) struct Ends {
    /// Where input goes. A socket is shut, a pipe is closed.
    pub(super) input: Input,
    /// Where STDOUT comes from.
    pub(super) output: OwnedFd,
    /// Where STDERR comes from.
    pub(super) errors: Option<OwnedFd>,
    /// The process, if it is one.
    pub(super) child: Option<Child>,
    /// Readable when the process wants its stdin as its stdout too.
    pub(super) switch: Option<Arc<OwnedFd>>,
    /// Written to the input before anything of the caller.
    pub(super) preamble: Vec<u8>,
    /// Whose end of stream ends the call at once: the client's, the service's.
    pub(super) ends_on: (bool, bool),
}

/// Where input goes.
#[derive(Debug)]
pub(super) enum Input {
    Pipe(OwnedFd),
    Socket(OwnedFd),
    /// A socket that takes no more, but may become the output.
    Shut(OwnedFd),
    Closed,
}

impl Input {
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        match self {
            Self::Pipe(fd) | Self::Socket(fd) => Some(fd),
            Self::Shut(_) | Self::Closed => None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.fd().is_none()
    }

    pub(super) fn close(&mut self) {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Socket(fd) => {
                // One that is not connected any more is as good as shut.
                let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Write);
                Self::Shut(fd)
            }
            Self::Shut(fd) => Self::Shut(fd),
            Self::Pipe(_) | Self::Closed => Self::Closed,
        };
    }
}

/// One of the streams towards the caller.
#[derive(Debug)]
pub(super) enum Source {
    Open(Output),
    /// Its end has not been sent.
    Ending,
    Ended,
}

/// Where output comes from.
#[derive(Debug)]
pub(super) struct Output {
    /// Shared with a body that is announced, because a process may change its output before it is sent.
    pub(super) fd: Arc<OwnedFd>,
    /// A pipe whose last read filled a frame: more is likely to wait than is worth a copy.
    pub(super) in_bulk: bool,
    is_pipe: bool,
}

impl Output {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let is_pipe = widen(&fd);
        Self {
            fd: Arc::new(fd),
            in_bulk: false,
            is_pipe,
        }
    }

    /// Reads a frame's body.
    pub(super) fn read(&mut self, body: &mut [u8]) -> Result<usize, Errno> {
        let read = read(&self.fd, &mut *body)?;
        self.in_bulk = self.is_pipe && read == body.len();
        Ok(read)
    }
}

/// Writes what the input takes; `None` when it takes nothing now, or nothing any more (it is closed then).
pub(super) fn put(input: &mut Input, bytes: &[u8]) -> Option<usize> {
    loop {
        match write(input.fd()?, bytes) {
            Ok(written) => return Some(written),
            Err(Errno::AGAIN) => return None,
            Err(Errno::INTR) => {}
            Err(_) => {
                input.close();
                return None;
            }
        }
    }
}
