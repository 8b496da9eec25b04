//! What is left to do on a data stream when everything has been said.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read},
};

/// How long a caller's last input is still read and dropped: a stream that is closed with unread bytes may lose the exit
/// code on its way.
const DRAIN: Duration = Duration::from_secs(1);

/// A stream on which everything has been said.
#[derive(Debug)]
pub(super) struct Lingering(pub(super) UnixStream);

impl Lingering {
    /// Reads on for a moment, until the caller has ended its side too.
    pub(super) fn drain(self) {
        let deadline = Instant::now() + DRAIN;
        let mut waste = [0; 4096];
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match read(&self.0, &mut waste) {
                // The exit code has arrived, or nobody wanted it.
                Ok(0) => return,
                Ok(_) | Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => return,
            }
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match Timespec::try_from(left).map(|left| poll(&mut fds, Some(&left))) {
                Ok(Ok(1..)) | Ok(Err(Errno::INTR)) => {}
                _ => return,
            }
        }
    }
}
