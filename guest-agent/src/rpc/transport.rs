//! How this VM reaches its host: always outwards, by port number.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

/// How long a data stream may be refused before the call is given up: the host's offer can be a moment behind the
/// message that announces it.
const OFFER_WAIT: Duration = Duration::from_secs(5);

/// Where ports are.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    /// vsock to the host, CID 2.
    Vsock,
    /// Unix sockets `DIR/PORT.sock`, for tests on one machine.
    Directory(PathBuf),
}

impl Transport {
    /// Connects to a port once. The result is a byte stream whatever its family is.
    ///
    /// # Errors
    /// When nothing is offered there.
    pub(crate) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        match self {
            Self::Vsock => {
                let stream = VsockStream::connect(&VsockAddr::new(VMADDR_CID_HOST, port))?;
                Ok(UnixStream::from(OwnedFd::from(stream)))
            }
            Self::Directory(dir) => UnixStream::connect(dir.join(format!("{port}.sock"))),
        }
    }

    /// Connects to a port that was announced, trying again for [`OFFER_WAIT`].
    ///
    /// # Errors
    /// The last refusal.
    pub(crate) fn connect_announced(&self, port: u32) -> io::Result<UnixStream> {
        let deadline = Instant::now() + OFFER_WAIT;
        let mut pause = Duration::from_millis(2);
        loop {
            match self.connect(port) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() + pause > deadline => return Err(error),
                Err(_) => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }
}
