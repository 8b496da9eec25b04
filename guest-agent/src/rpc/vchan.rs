//! The socket transport of the reference: one Unix socket a stream, named after both ends and the port.

use std::{
    fs, io,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long one end of a data stream waits for the other (specification of qrexec, 1.3).
const PEER_WAIT: Duration = Duration::from_secs(120);

/// Shortest and longest pause between two attempts to connect: a listener comes within moments, or late.
const PAUSES: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(20));

/// A directory of sockets, and who we are in it.
#[derive(Clone, Debug)]
pub(crate) struct Vchan {
    dir: PathBuf,
    domain: u32,
}

/// A socket that is removed with its listener.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Vchan {
    /// We are domain `domain` in `dir`.
    pub(crate) fn new(dir: PathBuf, domain: u32) -> Self {
        Self { dir, domain }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn domain(&self) -> u32 {
        self.domain
    }

    fn path(&self, server: u32, client: u32, port: u32) -> PathBuf {
        self.dir
            .join(format!("vchan.{server}.{client}.{port}.sock"))
    }

    /// Listens for `peer`. A socket that somebody left behind is replaced.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn listen(&self, peer: u32, port: u32) -> io::Result<Listener> {
        let path = self.path(self.domain, peer, port);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Listener {
            listener: UnixListener::bind(&path)?,
            path,
        })
    }

    /// Connects to `peer`, who may not listen yet.
    ///
    /// # Errors
    /// The last refusal, after 120 s.
    pub(crate) fn connect(&self, peer: u32, port: u32) -> io::Result<UnixStream> {
        let path = self.path(peer, self.domain, port);
        let deadline = Instant::now() + PEER_WAIT;
        let (mut pause, longest) = PAUSES;
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() + pause > deadline => return Err(error),
                Err(_) => thread::sleep(pause),
            }
            pause = (pause * 2).min(longest);
        }
    }
}

impl Listener {
    /// Waits for one connection, for ever or for a time.
    ///
    /// # Errors
    /// `TimedOut`, or what the system says.
    pub(crate) fn accept(&self, wait: Option<Duration>) -> io::Result<UnixStream> {
        if let Some(wait) = wait {
            let wait = Timespec::try_from(wait).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            if poll(&mut fds, Some(&wait))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(self.listener.accept()?.0)
    }

    /// The only connection of a data stream; nobody else can connect after that.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub(crate) fn only(self) -> io::Result<UnixStream> {
        self.accept(Some(PEER_WAIT))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Whoever removed it already did no harm.
        let _ = fs::remove_file(&self.path);
    }
}
