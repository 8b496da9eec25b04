//! The sending half: frames built where their bodies were read.

use std::{
    io,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use casemate_qrexec_wire::{FrameType, Header, Version};
use rustix::{
    event::PollFlags,
    fs::{OFlags, fcntl_getfl},
    io::{Errno, read, write},
};

use crate::{Passed, Passing, wait, widen};

/// The sending half; copies share the stream, each frame goes out whole.
#[derive(Clone, Debug)]
pub struct DataWriter {
    stream: Arc<Mutex<UnixStream>>,
    version: Version,
}

/// A frame that is built where its body was read: room for the header, then the body.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// For bodies of up to the version's largest.
    pub fn new(version: Version) -> Self {
        Self {
            bytes: vec![0; Header::LEN + version.max_data_chunk()],
        }
    }

    /// Where the body goes.
    pub fn body(&mut self) -> &mut [u8] {
        self.bytes.get_mut(Header::LEN..).unwrap_or_default()
    }

    /// Writes the header of a body of `len` bytes and returns how long the frame is.
    pub fn close(&mut self, kind: FrameType, len: usize) -> usize {
        let len = len.min(self.bytes.len() - Header::LEN);
        let header = Header {
            kind,
            len: u32::try_from(len).unwrap_or_default(),
        };
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = header.encode();
        }
        Header::LEN + len
    }

    /// Bytes of the frame.
    pub fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

impl DataWriter {
    pub(crate) fn new(stream: UnixStream, version: Version) -> Self {
        let stream = Arc::new(Mutex::new(stream));
        Self { stream, version }
    }

    /// Sends `bytes` as frames of `kind`; none when there are none.
    ///
    /// # Errors
    /// When the other end is lost.
    pub fn send(&self, kind: FrameType, bytes: &[u8]) -> io::Result<()> {
        let mut frame = FrameBuffer::new(self.version);
        for piece in bytes.chunks(frame.body().len()) {
            if let Some(place) = frame.body().get_mut(..piece.len()) {
                place.copy_from_slice(piece);
            }
            let len = frame.close(kind, piece.len());
            write_all(&self.lock(), frame.bytes(0..len))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, UnixStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the empty frame of `kind` unless a frame is under way.
    pub fn end(&self, kind: FrameType) {
        if let Ok(stream) = self.stream.try_lock() {
            let mut frame = FrameBuffer::new(self.version);
            let len = frame.close(kind, 0);
            // The other end has said all it has to say; whether it still listens does not matter.
            let _ = write_all(&stream, frame.bytes(0..len));
        }
    }
}

/// Writes everything, also to a stream that does not block.
fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(stream, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(stream, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A read of fewer bytes than this ends a bulk: a writer that is no faster than that gains nothing.
const LITTLE: usize = 4096;

/// A descriptor that is copied to its end as frames, each whole.
#[derive(Debug)]
pub struct Feed<S> {
    source: S,
    kind: FrameType,
    writer: DataWriter,
    frame: FrameBuffer,
    may_pass: bool,
    /// The last frame was full: more is likely to wait in the pipe than is worth a copy.
    in_bulk: bool,
}

impl<S: AsFd> Feed<S> {
    /// What comes of `source` is sent as frames of `kind`; bodies are passed on when it is a pipe and the stream does not
    /// block.
    pub fn new(source: S, kind: FrameType, writer: DataWriter) -> Self {
        let may_wait =
            fcntl_getfl(&*writer.lock()).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK));
        Self {
            may_pass: widen(&source) && !may_wait,
            source,
            kind,
            frame: FrameBuffer::new(writer.version),
            writer,
            in_bulk: false,
        }
    }

    /// Waits for something and sends it; at the end of the source the empty frame. Says whether there may be more.
    ///
    /// # Errors
    /// When the other end is lost, or somebody else has read of the source what was announced; nothing more can be sent then.
    /// A source that cannot be read counts as ended.
    pub fn step(&mut self) -> io::Result<bool> {
        if self.in_bulk {
            wait(&self.source, PollFlags::IN)?;
            if let Some(body) = Passing::announce(&self.source, self.kind, &mut self.frame) {
                self.pass(body)?;
                return Ok(true);
            }
        }
        let read = loop {
            match read(&self.source, self.frame.body()) {
                Ok(read) => break read,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(&self.source, PollFlags::IN)?,
                Err(_) => break 0,
            }
        };
        // Little that comes between is copied; what is full or comes fast is a bulk.
        let least = if self.in_bulk {
            LITTLE
        } else {
            self.frame.body().len()
        };
        self.in_bulk = self.may_pass && read >= least;
        let len = self.frame.close(self.kind, read);
        write_all(&self.writer.lock(), self.frame.bytes(0..len))?;
        Ok(read > 0)
    }

    fn pass(&self, mut body: Passing) -> io::Result<()> {
        let stream = self.writer.lock();
        write_all(&stream, self.frame.bytes(0..Passing::HEADER))?;
        while !body.is_over() {
            match body.go_on(self.source.as_fd(), &*stream)? {
                Passed::Some(_) => {}
                Passed::Full => wait(&*stream, PollFlags::OUT)?,
                // Not shut: what the other end said before it went is still to be read, and a vsock would drop it.
                Passed::Unread => return Err(io::ErrorKind::BrokenPipe.into()),
                Passed::Empty | Passed::Unable => {
                    // The frame cannot be ended any more; the other end must not wait for it.
                    stream.shutdown(Shutdown::Both)?;
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        Ok(())
    }
}
