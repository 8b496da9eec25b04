//! The stream to the host: connects, decodes, queues what is to be sent. It understands no message.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use casemate_window_wire::{Decoder, Malformed, Message as _, ToGuest, ToHost};
use rustix::io::Errno;
use smithay::reexports::calloop::RegistrationToken;
use vsock::VsockStream;

use crate::options::Options;

/// The host, as seen from a guest.
const HOST_CID: u32 = 2;
/// The port of the window stream.
const WINDOWS_PORT: u32 = 769;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Unsent bytes above which no new pixels are offered: a host that does not read must not fill this VM's memory.
const CONGESTED: usize = 64 * 1024;
/// Unsent bytes above which the host counts as gone.
const MAX_UNSENT: usize = 4 * 1024 * 1024;

/// Where the host is reached.
#[derive(Clone, Debug)]
pub(crate) enum HostAddress {
    /// vsock.
    Vsock,
    /// A Unix socket.
    Unix(PathBuf),
}

impl HostAddress {
    pub(crate) fn new(options: &Options) -> Self {
        match &options.connect {
            Some(path) => Self::Unix(path.clone()),
            None => Self::Vsock,
        }
    }

    /// Connects, and makes the socket non-blocking.
    ///
    /// # Errors
    /// When nobody offers the stream.
    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        let stream: OwnedFd = match self {
            Self::Vsock => VsockStream::connect_with_cid_port(HOST_CID, WINDOWS_PORT)?.into(),
            Self::Unix(path) => UnixStream::connect(path)?.into(),
        };
        rustix::io::ioctl_fionbio(&stream, true)?;
        Ok(stream)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The host closed it.
    #[error("the host closed the window stream")]
    Closed,
    /// The socket failed.
    #[error("the window stream failed: {0}")]
    Io(#[from] io::Error),
    /// Not this wire.
    #[error("the host sent a malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// The host does not read.
    #[error("the host does not read the window stream")]
    Stuck,
    /// A message that makes no sense now.
    #[error("the host {0}")]
    OutOfState(&'static str),
}

/// A connection. Not yet [`Stage::Ready`] until the host has welcomed us.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: OwnedFd,
    decoder: Decoder<ToGuest>,
    unsent: Vec<u8>,
    /// Set while an event source waits for the socket to take more.
    pub(crate) blocked: bool,
    pub(crate) source: Option<RegistrationToken>,
    pub(crate) stage: Stage,
    /// Why it must be given up; acted upon outside of the sources' callbacks.
    pub(crate) failure: Option<LinkError>,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Hello is sent.
    Greeting,
    /// The host has welcomed us.
    Ready,
}

impl Connection {
    pub(crate) fn new(stream: OwnedFd) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            unsent: Vec::new(),
            blocked: false,
            source: None,
            stage: Stage::Greeting,
            failure: None,
        }
    }

    /// A second descriptor of the stream, for an event source.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }

    /// Reads what has arrived. An end or error of the stream becomes [`Self::failure`], after what came before it.
    pub(crate) fn receive(&mut self) -> Vec<ToGuest> {
        let mut messages = Vec::new();
        if let Err(failure) = self.read_into(&mut messages) {
            self.failure = Some(failure);
        }
        messages
    }

    fn read_into(&mut self, messages: &mut Vec<ToGuest>) -> Result<(), LinkError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let len = match rustix::io::read(&self.stream, &mut buffer) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(len) => len,
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(LinkError::Io(error.into())),
            };
            self.decoder.feed(buffer.get(..len).unwrap_or_default());
            while let Some(message) = self.decoder.take()? {
                messages.push(message);
            }
        }
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, message: &ToHost) {
        if let Err(error) = message.encode(&mut self.unsent) {
            // Our own mistake: sending something the host refuses would end the session for all windows.
            tracing::error!(%error, ?message, "message not sent");
        }
        if self.unsent.len() > MAX_UNSENT {
            self.failure = Some(LinkError::Stuck);
        }
    }

    /// Whether new pixels should wait.
    pub(crate) fn congested(&self) -> bool {
        self.unsent.len() > CONGESTED
    }

    /// Writes what the socket takes; `true` when something is left.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) fn flush(&mut self) -> Result<bool, LinkError> {
        let mut sent = 0;
        let result = loop {
            let rest = self.unsent.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(false);
            }
            match rustix::io::write(&self.stream, rest) {
                Ok(len) => sent += len,
                Err(Errno::WOULDBLOCK) => break Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => break Err(LinkError::Io(error.into())),
            }
        };
        self.unsent.drain(..sent.min(self.unsent.len()));
        result
    }
}

/// When to try the next connection: later after each failure.
#[derive(Debug)]
pub(crate) struct Backoff {
    wait: Duration,
    next: Instant,
}

impl Backoff {
    /// Try at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            wait: FIRST_WAIT,
            next: now,
        }
    }

    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    pub(crate) fn due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A connection failed or ended.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.next = now + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// A connection works.
    pub(crate) fn succeeded(&mut self) {
        self.wait = FIRST_WAIT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_again_after_success() {
        let start = Instant::now();
        let mut backoff = Backoff::new(start);
        assert!(backoff.due(start));
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoff.failed(start);
            waits.push((backoff.next() - start).as_millis());
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.succeeded();
        backoff.failed(start);
        assert!(backoff.due(start + FIRST_WAIT));
        assert!(!backoff.due(start));
    }

    #[test]
    fn a_host_that_does_not_read_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(ours.into());
        while connection.unsent.len() < MAX_UNSENT {
            assert!(connection.failure.is_none());
            connection.send(&ToHost::Pong { nonce: 1 });
        }
        assert!(connection.congested());
        assert!(connection.flush().unwrap(), "nobody reads");
        while connection.failure.is_none() {
            connection.send(&ToHost::Pong { nonce: 1 });
            assert!(connection.unsent.len() < MAX_UNSENT + 64);
        }
        assert!(matches!(connection.failure, Some(LinkError::Stuck)));
    }
}
