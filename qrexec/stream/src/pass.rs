//! Bodies that are moved between a stream and a pipe by the kernel, without a copy in this process.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use casemate_qrexec_wire::{FrameType, Header};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
    io::{Errno, ioctl_fionread},
    pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice},
};

use crate::{DataReader, FrameBuffer};

/// Bodies of at least so many bytes are passed on. A smaller one costs less to copy than the kernel's calls that it takes
/// to leave it where it is.
pub(crate) const LEAST: usize = 16 * 1024;

/// What became of a body that was to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// So many bytes of it were moved.
    Some(usize),
    /// The source has nothing more for now.
    Empty,
    /// The destination takes nothing more for now.
    Full,
    /// Nobody reads the destination any more.
    Unread,
    /// The kernel does not do this with these two; the body must be copied.
    Unable,
}

/// Bytes that one end of a pipe may be ahead of the other: several bodies, so that neither is woken for each.
const PIPE: usize = 256 * 1024;

/// Whether it is a pipe, to or from which bodies can be passed on. If so it is made wide enough for many bytes, unless the
/// kernel does not grant that; then they go in smaller pieces.
pub fn widen(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let is_pipe =
        fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if is_pipe && fcntl_getpipe_size(fd).is_ok_and(|size| size < PIPE) {
        let _ = fcntl_setpipe_size(fd, PIPE);
    }
    is_pipe
}

impl DataReader {
    /// The kind of the body that [`DataReader::pass`] can take from the stream now: nothing of it has been read.
    pub fn passable(&self) -> Option<FrameType> {
        let (kind, left) = self.body;
        (self.passing && left > 0 && self.start == self.end).then_some(kind)
    }

    /// Moves some of the body that is [`DataReader::passable`] to a pipe, and does not wait.
    ///
    /// # Errors
    /// When the other end is lost, or the stream has ended within the body.
    pub fn pass(&mut self, pipe: impl AsFd) -> io::Result<Passed> {
        let (kind, left) = self.body;
        let moved = splice_some(self.stream.as_fd(), pipe.as_fd(), left)?;
        Ok(match moved {
            Ok(count) => {
                self.body = (kind, left - count);
                Passed::Some(count)
            }
            // If it was full a moment ago and is not now, the stream will be looked at again at once.
            Err(Passed::Full) if takes(pipe.as_fd()) => Passed::Empty,
            Err(why) => why,
        })
    }
}

/// A body that was announced by its header and is still in a pipe.
#[derive(Debug, Default)]
pub struct Passing {
    left: usize,
}

impl Passing {
    /// Makes a header in `frame` for what waits in `pipe`, if it is enough to be passed on.
    pub fn announce(pipe: impl AsFd, kind: FrameType, frame: &mut FrameBuffer) -> Option<Self> {
        let left = waiting(pipe).ok()?.min(frame.body().len());
        (left >= LEAST).then(|| {
            frame.close(kind, left);
            Self { left }
        })
    }

    /// Length of the header, which goes before the body.
    pub const HEADER: usize = Header::LEN;

    /// Whether all of the body is in the stream.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Moves some of the body to a stream. It must not block: the kernel would keep the pipe's writer from being
    /// interrupted meanwhile.
    ///
    /// # Errors
    /// When the other end is lost, or somebody else has taken from the pipe what was announced.
    pub fn go_on(&mut self, pipe: impl AsFd + Copy, stream: impl AsFd) -> io::Result<Passed> {
        Ok(
            match splice_some(pipe.as_fd(), stream.as_fd(), self.left)? {
                Ok(count) => {
                    self.left -= count;
                    Passed::Some(count)
                }
                // Nobody fills it but its writer, and what was announced is there already.
                Err(Passed::Full) if waiting(pipe)? == 0 => Passed::Empty,
                Err(why) => why,
            },
        )
    }
}

/// The way of a body from a stream to a socket: the kernel moves it there by a pipe.
#[derive(Debug)]
pub struct Transit {
    reader: OwnedFd,
    writer: OwnedFd,
    held: Passing,
}

impl Transit {
    /// An empty one.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let held = Passing::default();
        Ok(Self {
            reader,
            writer,
            held,
        })
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.held.is_over()
    }

    /// Takes some of the body that is [`DataReader::passable`].
    ///
    /// # Errors
    /// Those of [`DataReader::pass`].
    pub fn take(&mut self, reader: &mut DataReader) -> io::Result<Passed> {
        let passed = reader.pass(&self.writer)?;
        if let Passed::Some(count) = passed {
            self.held.left += count;
        }
        Ok(passed)
    }

    /// Moves on some of what is on its way.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<Passed> {
        self.held.go_on(self.reader.as_fd(), socket)
    }
}

/// Moves up to `len` bytes, of which one of the two is a pipe.
fn splice_some(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: usize,
) -> io::Result<Result<usize, Passed>> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        return match splice(from, None, to, None, len, flags) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Ok(count)),
            Err(Errno::INTR) => continue,
            // Which of the two it was is for the caller to find out.
            Err(Errno::AGAIN) => Ok(Err(Passed::Full)),
            Err(Errno::PIPE) => Ok(Err(Passed::Unread)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(Err(Passed::Unable)),
            Err(error) => Err(error.into()),
        };
    }
}

/// Bytes in a pipe.
fn waiting(pipe: impl AsFd) -> io::Result<usize> {
    usize::try_from(ioctl_fionread(pipe)?).map_err(io::Error::other)
}

/// Whether something can be written, or an error would be told.
fn takes(to: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
