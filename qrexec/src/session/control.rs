//! The socket of a control stream: what the agent sends goes into the session, what waits there is written.

use std::{io, os::fd::OwnedFd, os::unix};

use casemate_qrexec_session::{Broken, Session};
use tokio::{io::Interest, net::UnixStream};

/// Bytes read at one time.
const PIECE: usize = 16 * 1024;

/// Why a control stream is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Over {
    /// The guest closed it, or its VM ended.
    #[error("the agent closed the control stream")]
    Ended,
    /// No agent listens where it is looked for.
    #[error("no agent listens")]
    Absent,
    /// By fault of the agent.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Anything else the kernel said.
    #[error("the control stream failed: {0}")]
    Io(#[from] io::Error),
}

/// The broker's end of a control stream.
#[derive(Debug)]
pub(super) struct Control {
    stream: UnixStream,
    piece: Vec<u8>,
}

impl Control {
    /// A new stream; the second is the end that is to be offered to the guest.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self::over(UnixStream::from_std(ours)?), theirs.into()))
    }

    /// A stream whose other end the agent has already.
    pub(super) fn over(stream: UnixStream) -> Self {
        Self {
            stream,
            piece: vec![0; PIECE],
        }
    }

    /// Reads what there is and writes what can be written; returns when something was read.
    ///
    /// May be dropped at any time without loss.
    pub(super) async fn progress<L>(&mut self, session: &mut Session<L>) -> Result<(), Over> {
        loop {
            let interest = match (session.outgoing().is_empty(), session.may_read()) {
                (true, _) => Interest::READABLE,
                (false, true) => Interest::READABLE | Interest::WRITABLE,
                (false, false) => Interest::WRITABLE,
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() && !session.outgoing().is_empty() {
                match self.stream.try_write(session.outgoing()) {
                    Ok(written) => session.sent(written),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if is_end(&error) => return Err(Over::Ended),
                    Err(error) => return Err(error.into()),
                }
            }
            if ready.is_readable() && interest.is_readable() {
                match self.stream.try_read(&mut self.piece) {
                    Ok(0) => return Err(Over::Ended),
                    Ok(read) => {
                        session.feed(self.piece.get(..read).unwrap_or_default());
                        return Ok(());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if is_end(&error) => return Err(Over::Ended),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}
