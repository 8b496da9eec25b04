//! Data streams: HELLO, then frames in both directions. Bodies are handed on from where they were read; nothing is
//! copied to find a frame.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use casemate_qrexec_wire::{DataDecoder, DataFrame, FrameType, Header, Malformed, Version};

/// Bytes read at once: more than a frame, so that header and body come with one call.
const READ: usize = 128 * 1024;

/// How long the other end may take to say HELLO.
const HELLO_WAIT: Duration = Duration::from_secs(120);

/// What a too short exit code counts as (specification of qrexec, 1.4).
const BROKEN_EXIT_CODE: i32 = 255;

/// The receiving half of a data stream.
#[derive(Debug)]
pub(crate) struct DataReader {
    pub(super) stream: UnixStream,
    version: Version,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The frame whose body is coming, and what of it has not been taken.
    body: (FrameType, usize),
}

/// What comes next in a data stream. A body may come in several pieces; none of them is empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A piece of a body.
    Bytes(FrameType, &'a [u8]),
    /// The end of a direction.
    End(FrameType),
    /// How the service ended.
    ExitCode(i32),
}

/// The sending half; copies share the stream, each frame goes out whole.
#[derive(Clone, Debug)]
pub(crate) struct DataWriter {
    stream: Arc<Mutex<UnixStream>>,
    version: Version,
}

/// Says HELLO, waits for the other end's, and splits the stream.
///
/// # Errors
/// When the other end is lost, takes too long or speaks something else.
pub(crate) fn open(mut stream: UnixStream) -> io::Result<(DataReader, DataWriter)> {
    let mut hello = Vec::new();
    DataFrame::Hello(Version::OURS.number())
        .encode(Version::OLDEST, &mut hello)
        .map_err(invalid)?;
    stream.write_all(&hello)?;
    // Exactly their HELLO is read, so that nothing of the next frame is taken with it.
    let mut theirs = vec![0; hello.len()];
    let patience = stream.read_timeout()?;
    stream.set_read_timeout(Some(HELLO_WAIT))?;
    let mut decoder = DataDecoder::default();
    let (header, number) = theirs.split_at_mut(Header::LEN);
    for part in [header, number] {
        stream.read_exact(part)?;
        decoder.feed(part);
        // A header that is not HELLO's is refused before its body is waited for.
        decoder.take().map_err(invalid)?;
    }
    stream.set_read_timeout(patience)?;
    let version = decoder.version().ok_or(io::ErrorKind::InvalidData)?;
    let writer = Arc::new(Mutex::new(stream.try_clone()?));
    Ok((
        DataReader {
            stream,
            version,
            buffer: vec![0; READ],
            start: 0,
            end: 0,
            body: (FrameType::DataStdin, 0),
        },
        DataWriter {
            stream: writer,
            version,
        },
    ))
}

impl DataReader {
    /// Both ends speak this.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Reads once; `false` at the end of the stream. What was peeked at must have been taken.
    ///
    /// # Errors
    /// Those of the stream; a nonblocking one says `WouldBlock`.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match (&self.stream).read(room) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What comes next, `None` when more must be read. Bytes stay until [`DataReader::take`].
    ///
    /// # Errors
    /// [`Malformed`] as soon as a header is wrong.
    pub(crate) fn peek(&mut self) -> Result<Option<Piece<'_>>, Malformed> {
        let rest = self.buffer.get(self.start..self.end).unwrap_or_default();
        let (kind, left) = self.body;
        if left > 0 {
            let piece = rest.get(..left.min(rest.len())).unwrap_or_default();
            return Ok((!piece.is_empty()).then_some(Piece::Bytes(kind, piece)));
        }
        let Some((header, rest)) = rest.split_first_chunk::<{ Header::LEN }>() else {
            return Ok(None);
        };
        let (kind, len) = check(Header::decode(*header), self.version)?;
        if kind == FrameType::DataExitCode {
            let code = match rest.first_chunk() {
                Some(code) => i32::from_le_bytes(*code),
                None if len < 4 => BROKEN_EXIT_CODE,
                None => return Ok(None),
            };
            let taken = len.min(4);
            if rest.len() < taken {
                return Ok(None);
            }
            self.start += Header::LEN + taken;
            self.body = (kind, len - taken);
            let code = if len < 4 { BROKEN_EXIT_CODE } else { code };
            return Ok(Some(Piece::ExitCode(code)));
        }
        self.start += Header::LEN;
        self.body = (kind, len);
        if len == 0 {
            return Ok(Some(Piece::End(kind)));
        }
        let piece = rest.get(..len.min(rest.len())).unwrap_or_default();
        Ok((!piece.is_empty()).then_some(Piece::Bytes(kind, piece)))
    }

    /// Takes `count` of the bytes that were peeked at.
    pub(crate) fn take(&mut self, count: usize) {
        let (kind, left) = self.body;
        let count = count.min(left).min(self.end - self.start);
        self.start += count;
        self.body = (kind, left - count);
    }

    /// Gives each piece to `on` until it breaks or the stream ends (`None`). Blocks.
    ///
    /// # Errors
    /// Those of `on`, of the stream, and a frame that is not of this protocol.
    pub(crate) fn each<T>(
        &mut self,
        mut on: impl FnMut(Piece<'_>) -> io::Result<ControlFlow<T>>,
    ) -> io::Result<Option<T>> {
        loop {
            while let Some(piece) = self.peek().map_err(invalid)? {
                let count = match piece {
                    Piece::Bytes(_, bytes) => bytes.len(),
                    Piece::End(_) | Piece::ExitCode(_) => 0,
                };
                if let ControlFlow::Break(value) = on(piece)? {
                    return Ok(Some(value));
                }
                self.take(count);
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }
}

/// The type and length of a header that a data stream may have after HELLO.
fn check(header: Header, version: Version) -> Result<(FrameType, usize), Malformed> {
    let Header { kind, len } = header;
    match kind {
        FrameType::DataStdin
        | FrameType::DataStdout
        | FrameType::DataStderr
        | FrameType::DataExitCode => {}
        other => return Err(Malformed::Unexpected(other.number())),
    }
    let fits = usize::try_from(len)
        .ok()
        .filter(|len| *len <= version.max_data_chunk());
    let len = fits.ok_or(Malformed::Length {
        kind: kind.number(),
        len,
    })?;
    Ok((kind, len))
}

/// A frame that is built where its body was read: room for the header, then the body.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// For bodies of up to the version's largest.
    pub(crate) fn new(version: Version) -> Self {
        Self {
            bytes: vec![0; Header::LEN + version.max_data_chunk()],
        }
    }

    /// Where the body goes.
    pub(crate) fn body(&mut self) -> &mut [u8] {
        self.bytes.get_mut(Header::LEN..).unwrap_or_default()
    }

    /// Writes the header of a body of `len` bytes and returns how long the frame is.
    pub(crate) fn close(&mut self, kind: FrameType, len: usize) -> usize {
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
    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

impl DataWriter {
    /// Copies `source` to its end as frames of `kind`, and then sends the empty one.
    ///
    /// # Errors
    /// When the other end is lost. A source that cannot be read counts as ended.
    pub(crate) fn pump(&self, source: &mut dyn Read, kind: FrameType) -> io::Result<()> {
        let mut frame = FrameBuffer::new(self.version);
        loop {
            let read = match source.read(frame.body()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let len = frame.close(kind, read);
            self.stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(frame.bytes(0..len))?;
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Sends the empty frame of `kind` unless a frame is under way.
    pub(crate) fn end(&self, kind: FrameType) {
        if let Ok(mut stream) = self.stream.try_lock() {
            let mut frame = FrameBuffer::new(self.version);
            let len = frame.close(kind, 0);
            // The other end has said all it has to say; whether it still listens does not matter.
            let _ = stream.write_all(frame.bytes(0..len));
        }
    }
}

pub(crate) fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
