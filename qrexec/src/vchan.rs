//! Sockets in a directory instead of vsock: the convention of the reference's socket transport.
//!
//! A stream between two domains is the socket `vchan.SERVER.CLIENT.PORT.sock`, raw bytes from the first. The domain
//! that is named first listens. An agent listens for the broker (domain 0) on port 512. In a call between two VMs the
//! caller listens and the service connects, and no byte of it comes through the broker; in a call of the admin side
//! the admin side listens. Who may open a socket in the directory may be any domain, so it is for tests, benches and
//! agents of the reference on one machine, not for VMs.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use casemate_qrexec_wire::limits::CONTROL_PORT;
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::broker::ADMIN_DOMAIN;

/// How long the admin side waits for the agent to connect: as long as the reference's.
const ACCEPT: Duration = Duration::from_secs(10);

/// The socket of a stream.
pub(crate) fn path(directory: &Path, server: u32, client: u32, port: u32) -> PathBuf {
    directory.join(format!("vchan.{server}.{client}.{port}.sock"))
}

/// The sockets by which one VM is reached.
#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    directory: PathBuf,
    vm: u32,
}

impl Sockets {
    pub(crate) fn new(directory: PathBuf, vm: u32) -> Self {
        Self { directory, vm }
    }

    /// Connects to the control stream, if the agent listens.
    pub(crate) async fn control(&self) -> io::Result<UnixStream> {
        UnixStream::connect(path(&self.directory, self.vm, ADMIN_DOMAIN, CONTROL_PORT)).await
    }

    /// Listens for the VM on a port that was given to a call of the admin side.
    pub(crate) fn listen(&self, port: u32) -> io::Result<Listening> {
        let path = path(&self.directory, ADMIN_DOMAIN, self.vm, port);
        // Left by an admin side that was killed: the port was free, so nobody listens there.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        Ok(Listening { listener, path })
    }
}

/// A socket that waits for one connection; gone when dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

impl Listening {
    /// The stream, once the other end has connected.
    pub(crate) async fn accept(self) -> io::Result<OwnedFd> {
        let (stream, _) = timeout(ACCEPT, self.listener.accept())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream.into())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_of_the_admin_side_meets_at_a_socket_that_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let place = path(dir.path(), 0, 7, 513);
        assert!(place.ends_with("vchan.0.7.513.sock"));
        fs::write(&place, "stale").unwrap();
        let sockets = Sockets::new(dir.path().to_owned(), 7);
        assert!(sockets.control().await.is_err());
        let listening = sockets.listen(513).unwrap();
        let guest = UnixStream::connect(&place).await.unwrap();
        let ours = listening.accept().await.unwrap();
        assert!(!place.exists());
        drop(guest);
        assert_eq!(
            io::Read::read(&mut std::os::unix::net::UnixStream::from(ours), &mut [0]).unwrap(),
            0
        );
    }
}
