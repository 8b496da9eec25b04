//! The frames of a data stream.

use crate::frame::{Buffer, FrameType, Malformed, Version, append, hello_number};

/// One frame. An empty body of the first three is the end of that direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFrame<'a> {
    /// The first frame of each direction.
    Hello(u32),
    /// To the service's standard input.
    Stdin(&'a [u8]),
    /// From the service's standard output.
    Stdout(&'a [u8]),
    /// From the service's standard error.
    Stderr(&'a [u8]),
    /// The service has ended; a signal `n` is `128 + n`. Nothing follows.
    ExitCode(i32),
}

impl DataFrame<'_> {
    /// What a body too short for an exit code counts as.
    const BROKEN_EXIT_CODE: i32 = 255;

    /// Appends the frame; on error `out` is as before.
    ///
    /// # Errors
    /// [`Malformed::Length`] for more bytes than [`Version::max_data_chunk`].
    pub fn encode(self, version: Version, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Hello(number) => append(out, FrameType::Hello, version, &[&number.to_le_bytes()]),
            Self::Stdin(bytes) => append(out, FrameType::DataStdin, version, &[bytes]),
            Self::Stdout(bytes) => append(out, FrameType::DataStdout, version, &[bytes]),
            Self::Stderr(bytes) => append(out, FrameType::DataStderr, version, &[bytes]),
            Self::ExitCode(code) => append(
                out,
                FrameType::DataExitCode,
                version,
                &[&code.to_le_bytes()],
            ),
        }
    }
}

/// Finds frames in one direction of a data stream that arrives in pieces.
///
/// The first frame must be a HELLO, which sets the version; a second one is refused. Which of the other types
/// means something depends on the end: see the specification on what a wrong direction is.
#[derive(Debug, Default)]
pub struct DataDecoder {
    buffer: Buffer,
    version: Option<Version>,
}

impl DataDecoder {
    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.feed(bytes);
    }

    /// Whether everything that was fed was taken.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The negotiated version; `None` before HELLO. What is sent before that must fit the oldest.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`Malformed`], also as soon as a header alone is wrong: a lying length is not waited for.
    pub fn take(&mut self) -> Result<Option<DataFrame<'_>>, Malformed> {
        let Some(version) = self.version else {
            let hello = |kind| kind == FrameType::Hello;
            let Some((_, body)) = self.buffer.take(Version::OLDEST, hello)? else {
                return Ok(None);
            };
            let number = hello_number(body)?;
            self.version = Some(Version::negotiate(number)?);
            return Ok(Some(DataFrame::Hello(number)));
        };
        let Some((kind, body)) = self.buffer.take(version, is_data)? else {
            return Ok(None);
        };
        Ok(Some(match kind {
            FrameType::DataStdin => DataFrame::Stdin(body),
            FrameType::DataStdout => DataFrame::Stdout(body),
            FrameType::DataStderr => DataFrame::Stderr(body),
            FrameType::DataExitCode => DataFrame::ExitCode(
                body.first_chunk()
                    .map_or(DataFrame::BROKEN_EXIT_CODE, |code| {
                        i32::from_le_bytes(*code)
                    }),
            ),
            other => return Err(Malformed::Unexpected(other.number())),
        }))
    }
}

fn is_data(kind: FrameType) -> bool {
    matches!(
        kind,
        FrameType::DataStdin
            | FrameType::DataStdout
            | FrameType::DataStderr
            | FrameType::DataExitCode
    )
}
