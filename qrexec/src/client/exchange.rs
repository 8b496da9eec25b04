//! The client end of a data stream.
//!
//! Two directions, each waiting by itself, so that a reader that does not read stops its writer and nothing is held but
//! one frame: in a thread, our stdin becomes STDIN frames; what the service says goes to stdout and stderr until its
//! exit code. A call that says nothing needs no other thread.

use std::{
    fs,
    io::{self, Read, Write},
    mem,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    thread,
};

use casemate_qrexec_stream::{DataReader, Feed, Passed, Piece, answered, greet, invalid, widen};
use casemate_qrexec_wire::FrameType;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio::stdin,
};

use super::{LOST, complain, readable, wait};

/// The broker's connection, which it closes when the agent has reported the end or somebody killed the call: then the
/// data stream brings nothing but what it holds already.
enum Broker {
    /// Looked at while we wait for data of the stream.
    Watched {
        broker: UnixStream,
        stream: UnixStream,
    },
    /// By a thread, because we may have to wait elsewhere.
    Elsewhere,
    /// The stream was shut.
    Over,
}

impl Broker {
    /// Waits until the stream has something, if only its end.
    fn wait(&mut self) -> io::Result<()> {
        let Self::Watched { broker, stream } = self else {
            // Whoever reads it waits as well.
            return Ok(());
        };
        let [_, over] = readable([stream.as_fd(), broker.as_fd()])?;
        if over {
            // One that the agent has shut already is fine.
            let _ = stream.shutdown(Shutdown::Both);
            *self = Self::Over;
        }
        Ok(())
    }

    /// From now on the caller may be kept waiting by somebody else than the stream.
    fn leave(&mut self) {
        if let Self::Watched { .. } = self
            && let Self::Watched { mut broker, stream } = mem::replace(self, Self::Elsewhere)
        {
            thread::spawn(move || {
                let _ = broker.read(&mut [0]);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    }
}

/// Moves everything until the exit code, and returns that.
pub(super) fn run(stream: UnixStream, broker: UnixStream, with_stdin: bool) -> u8 {
    talk(stream, broker, with_stdin).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::UnexpectedEof {
            complain(&anyhow::Error::new(error).context("the call was lost"));
        }
        LOST
    })
}

fn talk(stream: UnixStream, broker: UnixStream, with_stdin: bool) -> io::Result<u8> {
    let mut broker = Broker::Watched {
        broker,
        stream: stream.try_clone()?,
    };
    greet(&stream)?;
    broker.wait()?;
    let (mut reader, writer) = answered(stream)?;
    reader.stream().set_nonblocking(true)?;
    if with_stdin {
        send(Feed::new(stdin(), FrameType::DataStdin, writer));
    }
    let (mut out, mut err) = (Some(stdout()?), Some(stderr()?));
    reader.may_pass(out.as_ref().is_some_and(widen));
    loop {
        if let Some(code) = pieces(&mut reader, &mut broker, &mut out, &mut err)? {
            return Ok(code);
        }
        if reader.passable() == Some(FrameType::DataStdout)
            && let Some(file) = &out
        {
            broker.leave();
            match reader.pass(file)? {
                Passed::Some(_) => continue,
                Passed::Empty => drop(readable([reader.stream().as_fd()])?),
                Passed::Full => drop(wait([file.as_fd()], PollFlags::OUT)?),
                Passed::Unread => out = None,
                Passed::Unable => reader.may_pass(false),
            }
            continue;
        }
        broker.wait()?;
        match reader.fill() {
            Ok(true) => {}
            Ok(false) => return Ok(LOST),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                readable([reader.stream().as_fd()])?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes what has been read; an exit code is the last of it.
fn pieces(
    reader: &mut DataReader,
    broker: &mut Broker,
    out: &mut Option<fs::File>,
    err: &mut Option<fs::File>,
) -> io::Result<Option<u8>> {
    while let Some(piece) = reader.peek().map_err(invalid)? {
        let count = match piece {
            Piece::Bytes(kind, bytes) => {
                broker.leave();
                match kind {
                    FrameType::DataStdout => put(out, bytes),
                    FrameType::DataStderr => put(err, bytes),
                    _ => {}
                }
                bytes.len()
            }
            Piece::End(kind) => {
                match kind {
                    FrameType::DataStdout => *out = None,
                    FrameType::DataStderr => *err = None,
                    _ => {}
                }
                0
            }
            Piece::ExitCode(code) => return Ok(Some(u8::try_from(code).unwrap_or(LOST))),
        };
        reader.take(count);
    }
    Ok(None)
}

/// A reader of ours that has gone is like one that reads all.
fn put(output: &mut Option<fs::File>, bytes: &[u8]) {
    if let Some(file) = output
        && file.write_all(bytes).is_err()
    {
        *output = None;
    }
}

/// Without the line buffer of the standard library.
fn stdout() -> io::Result<fs::File> {
    Ok(rustix::io::dup(rustix::stdio::stdout())?.into())
}

fn stderr() -> io::Result<fs::File> {
    Ok(rustix::io::dup(rustix::stdio::stderr())?.into())
}

/// Sends our stdin. Most calls have none, and its end needs no thread; a first frame fits into the stream. A service that
/// takes no input is no reason not to hear what it says.
fn send(mut input: Feed<BorrowedFd<'static>>) {
    let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let at_once = poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    if !at_once || input.step().unwrap_or(false) {
        thread::spawn(move || while input.step().unwrap_or(false) {});
    }
}
