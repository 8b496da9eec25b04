//! The client end of a qrexec data stream: HELLO both ways, then our input as STDIN, the program's output, its exit code.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
};

use casemate_qrexec_wire::{DataDecoder, DataFrame, Version};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use crate::failure::{Failure, Kind};

/// What the program in the VM says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

/// Writes to the standard input of the program; its end is sent when it is dropped.
#[derive(Debug)]
pub(crate) struct Input {
    stream: UnixStream,
    version: Version,
    frame: Vec<u8>,
}

impl Write for Input {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.version.max_data_chunk());
        let chunk = bytes.get(..length).unwrap_or_default();
        if !chunk.is_empty() {
            self.send(chunk)?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Input {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frame.clear();
        DataFrame::Stdin(bytes)
            .encode(self.version, &mut self.frame)
            .map_err(io::Error::other)?;
        self.stream.write_all(&self.frame)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // A program that has ended wants no end of input.
        let _ = self.send(&[]);
    }
}

/// How often a call is made, when nobody takes it.
const TRIES: u32 = 3;

/// A call to which the VM has answered.
#[derive(Debug)]
pub(crate) struct Call(UnixStream);

/// Makes a call, and makes it anew when it was surely not taken, as when the VM's agent has just lost its connection.
///
/// # Errors
/// Those of `set_up`; and when the call was lost, or was not taken again and again.
pub(crate) async fn make(
    set_up: impl AsyncFn() -> Result<OwnedFd, Failure>,
) -> Result<Call, Failure> {
    let mut error = io::Error::from(io::ErrorKind::ConnectionReset);
    for _ in 0..TRIES {
        error = match Call::begin(set_up().await?) {
            Ok(call) => return Ok(call),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => error,
            Err(error) => return Err(not_begun(&error)),
        };
    }
    Err(not_begun(&error))
}

impl Call {
    /// Says hello and waits until the VM has.
    ///
    /// # Errors
    /// `ConnectionReset` says that not even our hello was read, before which nothing is started; after any other error
    /// the program may have run.
    fn begin(stream: OwnedFd) -> io::Result<Self> {
        let mut stream = UnixStream::from(stream);
        stream.set_nonblocking(false)?;
        let mut hello = Vec::new();
        DataFrame::Hello(Version::OURS.number())
            .encode(Version::OLDEST, &mut hello)
            .map_err(io::Error::other)?;
        // A program may have ended already, its output waiting for us; reading tells.
        let _ = stream.write_all(&hello);
        loop {
            match recv(&stream, &mut [0_u8; 1], RecvFlags::PEEK) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(Self(stream)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Runs a call to its end and returns the program's exit code.
///
/// `feed` runs in a thread of its own and is abandoned when the program ends first. An error of `take` ends the call.
pub(crate) fn run(
    call: Call,
    feed: impl FnOnce(Input) + Send + 'static,
    mut take: impl FnMut(Output, &[u8]) -> io::Result<()>,
) -> Result<i32, Failure> {
    let Call(mut stream) = call;
    let mut feed = Some(feed);
    let mut decoder = DataDecoder::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = match stream.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other,
        };
        let read = read.map_err(|error| match feed {
            Some(_) => not_begun(&error),
            None => lost(&error),
        })?;
        let bytes = buffer.get(..read).unwrap_or_default();
        decoder.feed(bytes);
        loop {
            let frame = decoder.take().map_err(|error| {
                Failure::new(
                    Kind::Lost,
                    format!("the VM's agent broke the protocol: {error}"),
                )
            })?;
            match frame {
                None => break,
                Some(DataFrame::Hello(_)) => {}
                Some(DataFrame::Stdout(bytes)) => take(Output::Stdout, bytes)?,
                Some(DataFrame::Stderr(bytes)) => take(Output::Stderr, bytes)?,
                // A service has no input for us.
                Some(DataFrame::Stdin(_)) => {}
                Some(DataFrame::ExitCode(code)) => return Ok(code),
            }
            if let (Some(version), Some(feed)) = (decoder.version(), feed.take()) {
                let input = Input {
                    stream: stream.try_clone().map_err(|error| lost(&error))?,
                    version,
                    frame: Vec::new(),
                };
                thread::spawn(move || feed(input));
            }
        }
    }
}

fn not_begun(error: &io::Error) -> Failure {
    Failure::new(
        Kind::Before,
        format!("the VM's agent did not take the call ({error}); `casemate logs NAME` may say why"),
    )
}

fn lost(error: &io::Error) -> Failure {
    Failure::new(
        Kind::Lost,
        format!("the VM was lost before the program ended ({error})"),
    )
}
