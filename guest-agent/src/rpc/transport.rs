//! How this VM reaches its host and the other end of a call, by port number.
//!
//! Over vsock everything connects outwards. The socket transport of the reference is the other one: a stream's server
//! listens on `vchan.SERVER.CLIENT.PORT.sock`, its client connects, and the bytes are the same (specification of
//! qrexec, header and 1.3).

use std::{
    env, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use casemate_qrexec_wire::{ExecParams, limits};
use vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use super::vchan::{Listener, Vchan};

/// How long a vsock data stream may be refused before the call is given up: the host's offer can be a moment behind
/// the message that announces it.
const OFFER_WAIT: Duration = Duration::from_secs(5);

/// Where ports are.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    /// vsock to the host, CID 2.
    Vsock,
    /// Unix sockets `DIR/PORT.sock` that the host listens on, for tests on one machine.
    Directory(PathBuf),
    /// Unix sockets by the reference's convention.
    Vchan(Vchan),
}

/// Environment variables that tell a program of this VM which transport its agent uses.
const PORT_DIRECTORY: &str = "CASEMATE_PORT_DIRECTORY";
const VCHAN_DIRECTORY: &str = "VCHAN_SOCKET_DIR";
const VCHAN_DOMAIN: &str = "VCHAN_DOMAIN";

/// The control stream, made again after each loss.
#[derive(Debug)]
pub(crate) struct ControlPort<'a> {
    transport: &'a Transport,
    listener: Option<Listener>,
}

impl ControlPort<'_> {
    /// Makes the stream: connects once, or waits until the host does.
    ///
    /// # Errors
    /// When nothing is offered there, or when the socket cannot be made.
    pub(crate) fn open(&mut self) -> io::Result<UnixStream> {
        match self.transport {
            Transport::Vchan(vchan) => {
                let listener = match self.listener.take() {
                    Some(listener) => listener,
                    None => vchan.listen(0, limits::CONTROL_PORT)?,
                };
                self.listener.insert(listener).accept(None)
            }
            outwards => outwards.connect(limits::CONTROL_PORT),
        }
    }
}

impl Transport {
    /// The transport that this process's environment names; vsock when it names none.
    pub(crate) fn from_environment() -> Self {
        let vchan = env::var_os(VCHAN_DIRECTORY).zip(
            env::var(VCHAN_DOMAIN)
                .ok()
                .and_then(|domain| domain.parse().ok()),
        );
        match (vchan, env::var_os(PORT_DIRECTORY)) {
            (Some((dir, domain)), _) => Self::Vchan(Vchan::new(dir.into(), domain)),
            (None, Some(dir)) => Self::Directory(dir.into()),
            (None, None) => Self::Vsock,
        }
    }

    /// What a program of this VM needs in its environment to find the same transport.
    pub(crate) fn environment(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        match self {
            Self::Vsock => Vec::new(),
            Self::Directory(dir) => vec![(PORT_DIRECTORY, dir.into())],
            Self::Vchan(vchan) => vec![
                (VCHAN_DIRECTORY, vchan.dir().into()),
                (VCHAN_DOMAIN, vchan.domain().to_string().into()),
            ],
        }
    }

    /// Where the control stream comes from.
    pub(crate) fn control(&self) -> ControlPort<'_> {
        ControlPort {
            transport: self,
            listener: None,
        }
    }

    /// The service end of a call's data stream.
    ///
    /// # Errors
    /// When the client end did not come in time.
    pub(crate) fn service_end(&self, place: ExecParams) -> io::Result<UnixStream> {
        match self {
            Self::Vchan(vchan) => vchan.connect(place.domain, place.port),
            outwards => outwards.connect_announced(place.port),
        }
    }

    /// The client end of a call's data stream.
    ///
    /// # Errors
    /// When the service end did not come in time.
    pub(crate) fn client_end(&self, place: ExecParams) -> io::Result<UnixStream> {
        match self {
            Self::Vchan(vchan) => vchan.listen(place.domain, place.port)?.only(),
            outwards => outwards.connect_announced(place.port),
        }
    }

    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        match self {
            Self::Directory(dir) => UnixStream::connect(dir.join(format!("{port}.sock"))),
            Self::Vsock | Self::Vchan(_) => {
                let stream = VsockStream::connect(&VsockAddr::new(VMADDR_CID_HOST, port))?;
                Ok(UnixStream::from(OwnedFd::from(stream)))
            }
        }
    }

    /// Connects to a port that was announced, trying again for [`OFFER_WAIT`].
    fn connect_announced(&self, port: u32) -> io::Result<UnixStream> {
        let deadline = Instant::now() + OFFER_WAIT;
        let mut pause = Duration::from_micros(100);
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
