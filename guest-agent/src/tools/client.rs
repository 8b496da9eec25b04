//! `qrexec-client-vm`: calls a service in another VM.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal, Read, Write},
    ops::ControlFlow,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::Context;
use clap::Args;

use casemate_qrexec_stream::{DataReader, DataWriter, Feed, Piece, open};
use casemate_qrexec_wire::{
    ExecParams, FrameType, Ident, Message, Target, ToBroker, Trigger, Version,
};

use crate::rpc::{local::SOCKET, transport::Transport};

/// Names the agent's socket where it is not the usual one.
pub(crate) const AGENT_SOCKET: &str = "CASEMATE_AGENT_SOCKET";

/// Exit code: refused.
pub(crate) const REFUSED: u8 = 126;

/// Exit code: the call was lost before it had an exit code.
const LOST: u8 = 255;

/// Options of `qrexec-client-vm`, those of the reference.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CallOptions {
    /// Replace what a terminal might obey in the call's output by '_'; usual when that is a terminal.
    #[arg(short = 't', long, overrides_with = "no_filter_escape_chars_stdout")]
    filter_escape_chars_stdout: bool,
    /// The same for the call's errors.
    #[arg(short = 'T', long, overrides_with = "no_filter_escape_chars_stderr")]
    filter_escape_chars_stderr: bool,
    /// Leave the call's output as it is.
    #[arg(long)]
    no_filter_escape_chars_stdout: bool,
    /// Leave the call's errors as they are.
    #[arg(long)]
    no_filter_escape_chars_stderr: bool,
    /// Bytes of the stream's buffer, a power of two.
    #[arg(long, value_name = "BYTES", value_parser = buffer_size)]
    buffer_size: Option<usize>,
    /// Socket of this VM's agent.
    #[arg(long, value_name = "PATH")]
    agent_socket: Option<PathBuf>,
    /// Sent before the input.
    #[arg(long, value_name = "DATA")]
    prefix_data: Option<OsString>,
}

/// Largest buffer that can be asked for.
const MAX_BUFFER: usize = 64 << 20;

fn buffer_size(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|size: &usize| size.is_power_of_two() && *size <= MAX_BUFFER)
        .ok_or_else(|| format!("not a power of two up to {MAX_BUFFER}"))
}

/// Calls `service` in `target`. With a program, that program's stdout is the call's input and its stdin the call's
/// output; without one, our own streams are. Returns the exit code of the call.
pub(crate) fn call(
    options: &CallOptions,
    target: &str,
    service: &str,
    program: &[OsString],
) -> anyhow::Result<u8> {
    let socket = options
        .agent_socket
        .clone()
        .or_else(|| env::var_os(AGENT_SOCKET).map(PathBuf::from))
        .unwrap_or_else(|| SOCKET.into());
    let mut agent = UnixStream::connect(&socket).with_context(|| {
        format!(
            "cannot reach the agent of this VM at {}; is casemate-agent running?",
            socket.display()
        )
    })?;
    agent
        .write_all(&request(target, service)?)
        .context("cannot ask the agent of this VM")?;
    let mut accepted = [0; ExecParams::LEN];
    if agent.read_exact(&mut accepted).is_err() {
        // The reference's words; scripts look for them.
        let _ = writeln!(io::stderr(), "Request refused");
        return Ok(REFUSED);
    }
    let stream = Transport::from_environment()
        .client_end(ExecParams::decode(accepted))
        .context("the call was allowed, but its stream cannot be reached")?;
    if let Some(size) = options.buffer_size {
        // The kernel's own bound holds; a smaller buffer is only slower.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, size);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&stream, size);
    }
    let code = with_streams(stream, options, program);
    // Kept until now: its end tells the agent that the call is over.
    drop(agent);
    code
}

fn request(target: &str, service: &str) -> anyhow::Result<Vec<u8>> {
    // Old scripts write keywords with a dollar sign.
    let target = target.replace('$', "@");
    let trigger = ToBroker::Trigger(Trigger {
        claimed_source: Target::default(),
        target: Target::sanitise(target.as_bytes()),
        ident: Ident::new("client").context("an ident of ours")?,
        service: service.as_bytes().to_vec(),
    });
    let mut request = Vec::new();
    trigger
        .encode(Version::OURS, &mut request)
        .context("the target or the service is too long")?;
    Ok(request)
}

/// Where the call's output goes, and whether a terminal must be protected from it.
struct Output {
    file: Option<std::fs::File>,
    filtered: bool,
}

impl Output {
    /// A reader that has gone takes no more; the call goes on.
    fn put(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let written = if self.filtered {
            file.write_all(&harmless(bytes))
        } else {
            file.write_all(bytes)
        };
        if written.is_err() {
            self.file = None;
        }
    }
}

/// Replaces what a terminal might obey.
fn harmless(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .map(|byte| match byte {
            b' '..=b'~' | b'\t' | b'\n' | b'\r' | 0x07 | 0x08 => *byte,
            _ => b'_',
        })
        .collect()
}

fn with_streams(
    stream: UnixStream,
    options: &CallOptions,
    program: &[OsString],
) -> anyhow::Result<u8> {
    let (mut reader, writer) = match open(stream) {
        Ok(ends) => ends,
        Err(error) => {
            // It was allowed and had a stream: a call that is lost, as it would be a moment later.
            let _ = writeln!(
                io::stderr(),
                "the called service was lost before it answered: {error}"
            );
            return Ok(LOST);
        }
    };
    let wants = |on: bool, off: bool, usual: bool| on || (usual && !off);
    let filter_output = wants(
        options.filter_escape_chars_stdout,
        options.no_filter_escape_chars_stdout,
        program.is_empty() && io::stdout().is_terminal(),
    );
    let filter_errors = wants(
        options.filter_escape_chars_stderr,
        options.no_filter_escape_chars_stderr,
        io::stderr().is_terminal(),
    );
    let (input, output, child) = match program.split_first() {
        None => (
            own(rustix::stdio::stdin())?,
            own(rustix::stdio::stdout())?,
            None,
        ),
        Some((name, arguments)) => {
            let mut child = Command::new(name)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot run {}", name.display()))?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
                anyhow::bail!("the program has no streams");
            };
            let (stdin, stdout) = (
                std::os::fd::OwnedFd::from(stdin),
                std::os::fd::OwnedFd::from(stdout),
            );
            (std::fs::File::from(stdout), stdin.into(), Some(child))
        }
    };
    let output = Output {
        file: Some(output),
        filtered: filter_output,
    };
    let errors = Output {
        file: Some(own(rustix::stdio::stderr())?),
        filtered: filter_errors,
    };
    let prefix = options.prefix_data.clone().unwrap_or_default();
    reader
        .do_not_block()
        .context("the call's stream cannot be used")?;
    let sender = writer.clone();
    // A lost stream is noticed by the reader, which knows what to return.
    thread::spawn(move || {
        let kind = FrameType::DataStdin;
        sender.send(kind, &prefix.into_encoded_bytes())?;
        let mut feed = Feed::new(input, kind, sender);
        while feed.step()? {}
        io::Result::Ok(())
    });
    let code = receive(&mut reader, &writer, output, errors);
    Ok(finish(child, code))
}

/// The program's own failure counts when the call itself went well.
fn finish(child: Option<Child>, code: u8) -> u8 {
    let own = child
        .and_then(|mut child| child.wait().ok())
        .and_then(|status| status.code());
    match own {
        Some(own) if own != 0 && code == 0 => u8::try_from(own).unwrap_or(1),
        _ => code,
    }
}

/// The service's output, until its exit code.
fn receive(
    reader: &mut DataReader,
    writer: &DataWriter,
    mut output: Output,
    mut errors: Output,
) -> u8 {
    let ended = reader.each(|piece| {
        match piece {
            // The reference takes output by either name, and so must we.
            Piece::Bytes(FrameType::DataStdout | FrameType::DataStdin, bytes) => output.put(bytes),
            Piece::Bytes(FrameType::DataStderr, bytes) => errors.put(bytes),
            Piece::End(FrameType::DataStdout | FrameType::DataStdin) => output.file = None,
            Piece::ExitCode(code) => {
                writer.end(FrameType::DataStdin);
                return Ok(ControlFlow::Break(u8::try_from(code).unwrap_or(LOST)));
            }
            Piece::Bytes(..) | Piece::End(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    });
    ended.ok().flatten().unwrap_or(LOST)
}

/// One of our own streams without the standard library's buffer and lock.
fn own(fd: BorrowedFd<'_>) -> anyhow::Result<std::fs::File> {
    let fd = fd
        .as_fd()
        .try_clone_to_owned()
        .context("a standard stream is closed")?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_protected() {
        let hostile = b"ok\t\x1b[2J\x9b\x00\x7f\r\n\xc3\xa9";
        assert_eq!(harmless(hostile), b"ok\t_[2J___\r\n__");
    }

    #[test]
    fn buffers_are_powers_of_two() {
        assert_eq!(buffer_size("65536"), Ok(65536));
        for bad in ["0", "1000", "-1", "x", "134217728"] {
            assert!(buffer_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_frame_holds_is_not_sent() {
        assert!(request("work", "test.Svc+a").is_ok());
        assert!(request("work", &"a".repeat(65_001)).is_err());
    }
}
