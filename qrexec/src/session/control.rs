//! A control stream: bytes of an agent to messages, and messages to bytes that wait until the agent reads.

use std::{io, os::fd::OwnedFd, os::unix};

use casemate_qrexec_wire::{ControlDecoder, Malformed, Message, ToAgent, ToBroker, Version};
use tokio::{io::Interest, net::UnixStream};

use crate::limits::{MAX_OUTGOING, OUTGOING_HIGH};

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
    /// The agent broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The agent does not take its answers.
    #[error("the agent does not read its control stream")]
    Unread,
    /// Anything else the kernel said.
    #[error("the control stream failed: {0}")]
    Io(#[from] io::Error),
}

/// The broker's end of a control stream.
#[derive(Debug)]
pub(super) struct Control {
    stream: UnixStream,
    decoder: ControlDecoder<ToBroker>,
    outgoing: Vec<u8>,
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
            decoder: ControlDecoder::default(),
            outgoing: Vec::new(),
            piece: vec![0; PIECE],
        }
    }

    /// Whether the agent has said hello.
    pub(super) fn is_open(&self) -> bool {
        self.decoder.version().is_some()
    }

    /// Queues a message; [`Control::progress`] sends it.
    pub(super) fn send(&mut self, message: &ToAgent) -> Result<(), Over> {
        let version = self.decoder.version().unwrap_or(Version::OLDEST);
        message.encode(version, &mut self.outgoing)?;
        if self.outgoing.len() > MAX_OUTGOING {
            return Err(Over::Unread);
        }
        Ok(())
    }

    /// The next message that was read already.
    pub(super) fn take(&mut self) -> Result<Option<ToBroker>, Over> {
        Ok(self.decoder.take()?)
    }

    /// Reads what there is and writes what can be written; returns when something was read.
    ///
    /// May be dropped at any time without loss.
    pub(super) async fn progress(&mut self) -> Result<(), Over> {
        loop {
            let interest = match self.outgoing.len() {
                0 => Interest::READABLE,
                waiting if waiting < OUTGOING_HIGH => Interest::READABLE | Interest::WRITABLE,
                _ => Interest::WRITABLE,
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() && !self.outgoing.is_empty() {
                match self.stream.try_write(&self.outgoing) {
                    Ok(written) => {
                        self.outgoing.drain(..written);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if is_end(&error) => return Err(Over::Ended),
                    Err(error) => return Err(error.into()),
                }
            }
            if ready.is_readable() && interest.is_readable() {
                match self.stream.try_read(&mut self.piece) {
                    Ok(0) => return Err(Over::Ended),
                    Ok(read) => {
                        self.decoder
                            .feed(self.piece.get(..read).unwrap_or_default());
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
