//! The receiving half: bodies are handed on from where they were read.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    time::Duration,
};

use casemate_qrexec_wire::{DataDecoder, DataFrame, FrameType, Header, Malformed, Version};

use rustix::event::PollFlags;

use crate::{DataWriter, invalid, pass::LEAST, wait};

/// Bytes read at once: more than a frame, so that header and body come with one call.
const READ: usize = 128 * 1024;

/// How long the other end may take to say HELLO.
const HELLO_WAIT: Duration = Duration::from_secs(120);

/// What a too short exit code counts as (specification of qrexec, 1.4).
const BROKEN_EXIT_CODE: i32 = 255;

/// The receiving half of a data stream.
#[derive(Debug)]
pub struct DataReader {
    pub(crate) stream: UnixStream,
    version: Version,
    buffer: Vec<u8>,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The frame whose body is coming, and what of it has not been taken.
    pub(crate) body: (FrameType, usize),
    /// Whoever reads would pass bodies on.
    may_pass: bool,
    /// The last frame was a large one: headers are read alone, so that bodies stay in the stream.
    pub(crate) passing: bool,
    /// The stream does not block, and [`DataReader::each`] is to wait.
    waits: bool,
}

/// What comes next in a data stream. A body may come in several pieces; none of them is empty.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A piece of a body.
    Bytes(FrameType, &'a [u8]),
    /// The end of a direction.
    End(FrameType),
    /// How the service ended.
    ExitCode(i32),
}

/// Says HELLO, waits for the other end's, and splits the stream.
///
/// # Errors
/// When the other end is lost, takes too long or speaks something else.
pub fn open(stream: UnixStream) -> io::Result<(DataReader, DataWriter)> {
    greet(&stream)?;
    answered(stream)
}

/// Says HELLO.
///
/// # Errors
/// When the other end is lost.
pub fn greet(mut stream: &UnixStream) -> io::Result<()> {
    let mut hello = Vec::new();
    DataFrame::Hello(Version::OURS.number())
        .encode(Version::OLDEST, &mut hello)
        .map_err(invalid)?;
    stream.write_all(&hello)
}

/// Waits for the other end's HELLO, ours having been said, and splits the stream.
///
/// # Errors
/// When the other end is lost, takes too long or speaks something else.
pub fn answered(mut stream: UnixStream) -> io::Result<(DataReader, DataWriter)> {
    // Exactly their HELLO is read, so that nothing of the next frame is taken with it.
    let (mut header, mut number) = ([0; Header::LEN], [0; 4]);
    let patience = stream.read_timeout()?;
    stream.set_read_timeout(Some(HELLO_WAIT))?;
    let mut decoder = DataDecoder::default();
    for part in [header.as_mut_slice(), number.as_mut_slice()] {
        stream.read_exact(part)?;
        decoder.feed(part);
        // A header that is not HELLO's is refused before its body is waited for.
        decoder.take().map_err(invalid)?;
    }
    stream.set_read_timeout(patience)?;
    let version = decoder.version().ok_or(io::ErrorKind::InvalidData)?;
    let writer = DataWriter::new(stream.try_clone()?, version);
    let reader = DataReader {
        stream,
        version,
        buffer: vec![0; READ],
        start: 0,
        end: 0,
        body: (FrameType::DataStdin, 0),
        may_pass: false,
        passing: false,
        waits: false,
    };
    Ok((reader, writer))
}

impl DataReader {
    /// Both ends speak this.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The stream itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The stream, of which nothing more is read here.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Whether large bodies are to stay in the stream until they are passed on. They may be read all the same.
    pub fn may_pass(&mut self, may: bool) {
        self.may_pass = may;
        self.passing &= may;
    }

    /// Reads once; `false` at the end of the stream. What was peeked at must have been taken.
    ///
    /// # Errors
    /// Those of the stream; a nonblocking one says `WouldBlock`.
    pub fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let most = match self.body {
            (_, 0) if self.passing => Header::LEN,
            _ => self.buffer.len(),
        };
        loop {
            let room = self.buffer.get_mut(self.end..most).unwrap_or_default();
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
    pub fn peek(&mut self) -> Result<Option<Piece<'_>>, Malformed> {
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
            self.passing = false;
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
        self.passing = self.may_pass && len >= LEAST;
        if len == 0 {
            return Ok(Some(Piece::End(kind)));
        }
        let piece = rest.get(..len.min(rest.len())).unwrap_or_default();
        Ok((!piece.is_empty()).then_some(Piece::Bytes(kind, piece)))
    }

    /// Takes `count` of the bytes that were peeked at.
    pub fn take(&mut self, count: usize) {
        let (kind, left) = self.body;
        let count = count.min(left).min(self.end - self.start);
        self.start += count;
        self.body = (kind, left - count);
    }

    /// Makes the stream one that does not block, as is needed to pass on to it; [`DataReader::each`] waits all the same.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn do_not_block(&mut self) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        self.waits = true;
        Ok(())
    }

    /// Gives each piece to `on` until it breaks or the stream ends (`None`). Waits.
    ///
    /// # Errors
    /// Those of `on`, of the stream, and a frame that is not of this protocol.
    pub fn each<T>(
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
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if self.waits && error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.stream, PollFlags::IN)?;
                }
                Err(error) => return Err(error),
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
