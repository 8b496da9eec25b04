//! Our stdin as frames.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    thread,
};

use casemate_qrexec_stream::{FrameBuffer, Passed, Passing, widen};
use casemate_qrexec_wire::{FrameType, Version};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read, write},
    stdio::stdin,
};

use super::{readable, wait};

/// Sends our stdin. Most calls have none, and its end needs no thread; a first frame fits into the stream. A service that
/// takes no input, or an input that cannot be read, is no reason not to hear what the service says.
pub(super) fn send(mut sender: Sender) {
    let input = stdin();
    let mut fds = [PollFd::new(&input, PollFlags::IN)];
    let at_once = poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    if !at_once || sender.next().unwrap_or(false) {
        thread::spawn(move || while sender.next().unwrap_or(false) {});
    }
}

/// A read of fewer bytes than this ends a bulk: a writer that is no faster than that gains nothing.
const LITTLE: usize = 4096;

/// Our stdin, frame by frame.
pub(super) struct Sender {
    stream: UnixStream,
    frame: FrameBuffer,
    is_pipe: bool,
    /// The last frame was full: more is likely to wait in the pipe than is worth a copy.
    in_bulk: bool,
}

impl Sender {
    /// The stream must not block.
    pub(super) fn new(stream: UnixStream, version: Version) -> Self {
        Self {
            stream,
            frame: FrameBuffer::new(version),
            is_pipe: widen(stdin()),
            in_bulk: false,
        }
    }

    /// Sends what can be read at once; says whether there may be more.
    fn next(&mut self) -> io::Result<bool> {
        if self.in_bulk {
            readable([stdin()])?;
            if let Some(body) = Passing::announce(stdin(), FrameType::DataStdin, &mut self.frame) {
                self.write(Passing::HEADER)?;
                self.pass(body)?;
                return Ok(true);
            }
        }
        let read = loop {
            match read(stdin(), self.frame.body()) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(readable([stdin()])?),
                read => break read?,
            }
        };
        // Little that comes between is copied; what is full or comes fast is a bulk.
        let least = if self.in_bulk {
            LITTLE
        } else {
            self.frame.body().len()
        };
        self.in_bulk = self.is_pipe && read >= least;
        let len = self.frame.close(FrameType::DataStdin, read);
        self.write(len)?;
        Ok(read > 0)
    }

    fn pass(&self, mut body: Passing) -> io::Result<()> {
        while !body.is_over() {
            match body.go_on(stdin(), &self.stream)? {
                Passed::Some(_) => {}
                Passed::Full => drop(wait([self.stream.as_fd()], PollFlags::OUT)?),
                Passed::Empty | Passed::Unread | Passed::Unable => {
                    // Another reader of our stdin took what was announced: the call cannot be saved.
                    self.stream.shutdown(std::net::Shutdown::Both)?;
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        Ok(())
    }

    /// Sends the first `len` bytes of the frame.
    fn write(&self, len: usize) -> io::Result<()> {
        let mut sent = 0;
        while sent < len {
            match write(&self.stream, self.frame.bytes(sent..len)) {
                Ok(written) => sent += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(wait([self.stream.as_fd()], PollFlags::OUT)?),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
