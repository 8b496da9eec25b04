//! The client end of a qrexec data stream: HELLO both ways, then our input as STDIN, the program's output, its exit code.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
};

use casemate_qrexec_wire::{DataDecoder, DataFrame, Version};

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

/// Runs a call to its end and returns the program's exit code.
///
/// `feed` runs in a thread of its own and is abandoned when the program ends first. An error of `take` ends the call.
pub(crate) fn run(
    stream: OwnedFd,
    feed: impl FnOnce(Input) + Send + 'static,
    mut take: impl FnMut(Output, &[u8]) -> io::Result<()>,
) -> Result<i32, Failure> {
    let mut stream = UnixStream::from(stream);
    stream
        .set_nonblocking(false)
        .map_err(|error| lost(&error))?;
    let mut hello = Vec::new();
    DataFrame::Hello(Version::OURS.number())
        .encode(Version::OLDEST, &mut hello)
        .map_err(|error| Failure::failed(error.to_string()))?;
    // A program may have ended already, its output waiting for us; reading tells.
    let _ = stream.write_all(&hello);
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
