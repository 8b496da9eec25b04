//! Data streams of calls: HELLO, then frames in both directions, each a header and a body.
//!
//! Nothing is copied to find a frame: a [`DataReader`] hands on bodies from where they were read, a [`FrameBuffer`] has
//! room for the header before the place where a body is read. Where much comes and both ends are the kernel's, bodies do not
//! pass through this process at all: [`DataReader::pass`] and [`Passing`] move them from a stream to a pipe and from a pipe
//! to a stream. Kernels before 6.5 do the latter page by page.
#![deny(missing_docs)]

mod pass;
mod reader;
mod writer;

use std::{io, os::fd::AsFd};

use casemate_qrexec_wire::Malformed;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

pub use pass::{Passed, Passing, Transit, widen};
pub use reader::{DataReader, Piece, answered, greet, open};
pub use writer::{DataWriter, Feed, FrameBuffer};

/// The error of a stream on which something came that is not of this protocol.
pub fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Waits until a descriptor is ready, or has failed.
fn wait(fd: impl AsFd, flags: PollFlags) -> io::Result<()> {
    let mut fds = [PollFd::new(&fd, flags)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
