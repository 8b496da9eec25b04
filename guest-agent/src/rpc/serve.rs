//! The service end of one call: a process, and the data stream that stands for its three standard streams.
//!
//! Three threads a call, each blocking: data stream to stdin, stdout to data stream, stderr to data stream. A slow
//! reader at either end therefore stops its writer; nothing is buffered beyond one chunk.
//!
//! The order at the end is fixed (specification of qrexec, 1.4): both output streams ended, process reaped, then the
//! exit code, then the connection is closed.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    os::unix::{
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use casemate_qrexec_wire::DataFrame;
use rustix::process::{Pid, Signal, kill_process_group};

use super::data::{DataReader, DataWriter, open};

/// Exit code: trouble of ours.
pub(crate) const TROUBLE: i32 = 125;

/// Exit code: allowed, but there is no such service.
pub(crate) const NO_SERVICE: i32 = 127;

/// Serves one call on a connected data stream until it is over. `prepared` is the process to run, or the exit code
/// that says why there is none.
///
/// # Errors
/// When the other end is lost or breaks the protocol; the process has been told by SIGHUP then.
pub(crate) fn serve(stream: UnixStream, prepared: Result<Command, i32>) -> io::Result<()> {
    let (reader, writer) = open(stream)?;
    let child = prepared.and_then(|mut command| {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spawn(&mut command)
    });
    match child {
        Ok(child) => with_child(reader, &writer, child),
        Err(code) => {
            let mut scratch = Vec::new();
            writer.send(DataFrame::Stdout(&[]), &mut scratch)?;
            writer.send(DataFrame::Stderr(&[]), &mut scratch)?;
            writer.send(DataFrame::ExitCode(code), &mut scratch)
        }
    }
}

/// Starts a process that nobody waits for and reports only whether it started.
///
/// # Errors
/// When the other end is lost.
pub(crate) fn start(stream: UnixStream, prepared: Result<Command, i32>) -> io::Result<()> {
    let (_reader, writer) = open(stream)?;
    let started = prepared.and_then(|mut command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        spawn(&mut command)
    });
    let code = match started {
        Ok(mut child) => {
            // Reaps it, whenever that is.
            thread::spawn(move || child.wait());
            0
        }
        Err(code) => code,
    };
    writer.send(DataFrame::ExitCode(code), &mut Vec::new())
}

/// In a process group of its own, so that a lost caller ends the whole pipeline.
fn spawn(command: &mut Command) -> Result<Child, i32> {
    command.process_group(0).spawn().map_err(|error| {
        tracing::warn!(program = ?command.get_program(), %error, "a call's program cannot be started");
        TROUBLE
    })
}

fn with_child(reader: DataReader, writer: &DataWriter, mut child: Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let over = Arc::new(AtomicBool::new(false));
    let feeder = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            if feed(reader, stdin).is_err() && !over.load(Ordering::Acquire) {
                // The caller is gone: what it started has nobody to work for.
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::HUP);
                }
            }
        })
    };
    let drains = [
        drain(stdout, writer, |bytes| DataFrame::Stdout(bytes)),
        drain(stderr, writer, |bytes| DataFrame::Stderr(bytes)),
    ];
    let status = child.wait()?;
    let mut result = Ok(());
    for drained in drains {
        result = result.and(
            drained
                .join()
                .unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
        );
    }
    result =
        result.and_then(|()| writer.send(DataFrame::ExitCode(exit_code(status)), &mut Vec::new()));
    over.store(true, Ordering::Release);
    // The feeder may wait for input that never comes.
    writer.shut();
    let _ = feeder.join();
    result
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Data stream to stdin, until the stream ends. An error means that the caller is lost.
fn feed(mut reader: DataReader, mut stdin: Option<ChildStdin>) -> io::Result<()> {
    let ended: Option<()> = reader.each(|frame| {
        match frame {
            DataFrame::Stdin([]) => stdin = None,
            DataFrame::Stdin(bytes) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(bytes).is_err()
                {
                    // The process reads no more: later input is read and dropped, so that its output still flows.
                    stdin = None;
                }
            }
            // The reference is lenient here too: meaningless, harmless.
            DataFrame::Hello(_)
            | DataFrame::Stdout(_)
            | DataFrame::Stderr(_)
            | DataFrame::ExitCode(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    ended.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn drain<P: Read + Send + 'static>(
    pipe: Option<P>,
    writer: &DataWriter,
    frame: impl for<'a> Fn(&'a [u8]) -> DataFrame<'a> + Send + 'static,
) -> thread::JoinHandle<io::Result<()>> {
    let writer = writer.clone();
    thread::spawn(move || match pipe {
        Some(mut pipe) => writer.pump(&mut pipe, frame),
        None => writer.pump(&mut io::empty(), frame),
    })
}
