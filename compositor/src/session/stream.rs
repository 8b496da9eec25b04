//! The byte stream of a window session: non-blocking, bounded in both directions.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use casemate_window_wire::{Decoder, Message, ToGuest, ToHost};

use super::End;

/// Bytes read in one go.
const PIECE: usize = 16 * 1024;

/// Most bytes that wait for a guest: one that never reads cannot make the host keep its messages for ever.
const MAX_OUTBOX: usize = 1024 * 1024;

/// Beyond this backlog a guest gets no more pointer motion, so that it may catch up.
const SLOW: usize = 32 * 1024;

/// Our end of the stream.
#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    decoder: Decoder<ToHost>,
    outbox: Vec<u8>,
    /// Whether the socket may hold bytes that were not read.
    readable: bool,
}

impl Stream {
    pub(super) fn new(socket: UnixStream) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            decoder: Decoder::default(),
            outbox: Vec::new(),
            readable: true,
        })
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The event loop says that something can be read or written.
    pub(super) fn wake(&mut self) {
        self.readable = true;
    }

    /// The next message; `None` when the guest has said no more.
    pub(super) fn receive(&mut self) -> Result<Option<ToHost>, End> {
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(Some(message));
            }
            if !self.readable {
                return Ok(None);
            }
            let mut piece = [0; PIECE];
            match self.socket.read(&mut piece) {
                Ok(0) => return Err(End::Closed),
                Ok(len) => self.decoder.feed(piece.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(End::Closed);
                }
                Err(error) => return Err(End::Io(error.kind())),
            }
        }
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: &ToGuest) -> Result<(), End> {
        if matches!(message, ToGuest::PointerMotion { .. }) && self.outbox.len() > SLOW {
            return Ok(());
        }
        if self.outbox.len() > MAX_OUTBOX {
            return Err(End::Protocol("the guest does not read its messages"));
        }
        message.encode(&mut self.outbox)?;
        Ok(())
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), End> {
        while !self.outbox.is_empty() {
            match self.socket.write(&self.outbox) {
                Ok(len) => {
                    self.outbox.drain(..len);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                    ) =>
                {
                    return Err(End::Closed);
                }
                Err(error) => return Err(End::Io(error.kind())),
            }
        }
        Ok(())
    }
}
