//! The service end of one call: starts what serves it and connects it to the data stream.

use std::{
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use casemate_qrexec_stream::{invalid, open, widen};
use casemate_qrexec_wire::{DataFrame, Version};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    ends::{Ends, Input},
    linger::Lingering,
    prepare::Prepared,
    relay::Relay,
    signals::Switches,
};

/// Exit code: trouble of ours.
pub(crate) const TROUBLE: i32 = 125;

/// Exit code: allowed, but there is no such service.
pub(crate) const NO_SERVICE: i32 = 127;

/// Serves one call on a connected data stream until it is over. `prepare` makes what serves it, or the exit code that
/// says why there is nothing; it may take its time, the stream has been opened then. The caller drains what is returned
/// once it has reported the end.
///
/// # Errors
/// When the other end is lost or breaks the protocol; the process has been told by SIGHUP then.
pub(crate) fn serve(
    stream: UnixStream,
    prepare: impl FnOnce() -> Result<Prepared, i32>,
    switches: &Switches,
) -> io::Result<Option<Lingering>> {
    let (reader, _) = open(stream)?;
    let (stream, version) = (reader.stream().try_clone()?, reader.version());
    let mut wish = None;
    let ends = prepare().and_then(|prepared| match prepared {
        Prepared::Process {
            command,
            switchable,
        } => process(command, switchable, switches, &mut wish),
        Prepared::Socket {
            stream,
            preamble,
            on_client_eof,
            on_service_eof,
        } => socket(stream, preamble, (on_client_eof, on_service_eof)),
    });
    match ends {
        Ok(ends) => Relay::new(reader, ends)?.run().map(Some),
        Err(code) => refuse(&stream, version, code).map(|()| None),
    }
}

/// Starts something that nobody waits for and reports only whether it started.
///
/// # Errors
/// When the other end is lost.
pub(crate) fn start(
    stream: UnixStream,
    prepare: impl FnOnce() -> Result<Prepared, i32>,
) -> io::Result<()> {
    let (reader, _) = open(stream)?;
    let started = prepare().and_then(|prepared| match prepared {
        Prepared::Process { mut command, .. } => {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = spawn(&mut command)?;
            // Reaps it, whenever that is.
            thread::spawn(move || child.wait());
            Ok(())
        }
        Prepared::Socket {
            stream, preamble, ..
        } => UnixStream::from(stream)
            .write_all(&preamble)
            .map_err(trouble),
    });
    let code = started.err().unwrap_or(0);
    send(
        reader.stream(),
        reader.version(),
        &[DataFrame::ExitCode(code)],
    )
}

/// A call without a service: both output streams end, then the exit code.
fn refuse(stream: &UnixStream, version: Version, code: i32) -> io::Result<()> {
    let frames = [
        DataFrame::Stdout(&[]),
        DataFrame::Stderr(&[]),
        DataFrame::ExitCode(code),
    ];
    send(stream, version, &frames)
}

fn send(mut stream: &UnixStream, version: Version, frames: &[DataFrame<'_>]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(version, &mut bytes).map_err(invalid)?;
    }
    stream.write_all(&bytes)
}

fn process<'a>(
    mut command: Command,
    switchable: bool,
    switches: &'a Switches,
    wish: &mut Option<super::signals::Wish<'a>>,
) -> Result<Ends, i32> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ours = None;
    if switchable {
        let (one, theirs) = UnixStream::pair().map_err(trouble)?;
        command.stdin(OwnedFd::from(theirs));
        ours = Some(OwnedFd::from(one));
    } else {
        command.stdin(Stdio::piped());
    }
    let (mut child, switch) = if switchable {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let switch = Arc::new(eventfd(0, flags).map_err(trouble)?);
        let started = switches.start(Arc::clone(&switch), || spawn(&mut command));
        let (child, known) = started?;
        *wish = Some(known);
        (child, Some(switch))
    } else {
        (spawn(&mut command)?, None)
    };
    // Our copy of the process's end would keep the socket from ending.
    drop(command);
    let input = match (ours, child.stdin.take()) {
        (Some(socket), _) => Input::Socket(socket),
        (None, Some(pipe)) => Input::Pipe(pipe.into()),
        (None, None) => Input::Closed,
    };
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(TROUBLE);
    };
    if let Input::Pipe(pipe) = &input {
        widen(pipe);
    }
    Ok(Ends {
        input,
        output: output.into(),
        errors: Some(errors.into()),
        child: Some(child),
        switch,
        preamble: Vec::new(),
        ends_on: (false, false),
    })
}

fn socket(stream: OwnedFd, preamble: Vec<u8>, ends_on: (bool, bool)) -> Result<Ends, i32> {
    Ok(Ends {
        output: stream.try_clone().map_err(trouble)?,
        input: Input::Socket(stream),
        errors: None,
        child: None,
        switch: None,
        preamble,
        ends_on,
    })
}

/// In a process group of its own, so that a lost caller ends the whole pipeline.
fn spawn(command: &mut Command) -> Result<Child, i32> {
    command.process_group(0).spawn().map_err(|error| {
        tracing::warn!(program = ?command.get_program(), %error, "a call's program cannot be started");
        TROUBLE
    })
}

fn trouble(error: impl std::fmt::Display) -> i32 {
    tracing::warn!(%error, "a call cannot be served");
    TROUBLE
}
