//! `qrexec-client-vm`: calls a service in another VM.

use std::{
    env,
    io::{self, Read, Write},
    ops::ControlFlow,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::Context;

use casemate_qrexec_wire::{
    DataFrame, ExecParams, Ident, Message, Target, ToBroker, Trigger, Version,
};

use crate::rpc::{
    data::{DataReader, open},
    local::SOCKET,
    transport::Transport,
};

/// Exit code: refused.
const REFUSED: u8 = 126;

/// Exit code: the call was lost before it had an exit code.
const LOST: u8 = 255;

/// Calls `service` in `target`. With a program, that program's stdout is the call's input and its stdin the call's
/// output; without one, our own streams are. Returns the exit code of the call.
pub(crate) fn call(target: &str, service: &str, program: &[String]) -> anyhow::Result<u8> {
    let socket = env::var_os("CASEMATE_AGENT_SOCKET").unwrap_or_else(|| SOCKET.into());
    let mut agent = UnixStream::connect(Path::new(&socket))
        .context("cannot reach the agent of this VM; is casemate-agent running?")?;
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
    agent
        .write_all(&request)
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
    let code = with_streams(stream, program);
    // Kept until now: its end tells the agent that the call is over.
    drop(agent);
    code
}

fn with_streams(stream: UnixStream, program: &[String]) -> anyhow::Result<u8> {
    let (mut reader, writer) = open(stream).context("the called service cannot be reached")?;
    let mut child = None;
    let (mut input, mut output): (Box<dyn Read + Send>, Option<Box<dyn Write>>) =
        match program.split_first() {
            None => (Box::new(own_stdin()?), Some(Box::new(io::stdout()))),
            Some((name, arguments)) => {
                let mut started = Command::new(name)
                    .args(arguments)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .with_context(|| format!("cannot run {name}"))?;
                let (stdin, stdout) = (started.stdin.take(), started.stdout.take());
                child = Some(started);
                let input = stdout.map_or_else(
                    || Box::new(io::empty()) as Box<dyn Read + Send>,
                    |pipe| Box::new(pipe),
                );
                (input, stdin.map(|pipe| Box::new(pipe) as Box<dyn Write>))
            }
        };
    // A lost stream is noticed by the reader, which knows what to return.
    thread::spawn(move || writer.pump(&mut input, |bytes| DataFrame::Stdin(bytes)));
    let code = receive(&mut reader, &mut output);
    drop(output);
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
fn receive(reader: &mut DataReader, output: &mut Option<Box<dyn Write>>) -> u8 {
    let ended = reader.each(|frame| {
        match frame {
            DataFrame::Stdout([]) => *output = None,
            DataFrame::Stdout(bytes) => {
                let written = output.as_mut().map_or(Ok(()), |output| {
                    output.write_all(bytes).and_then(|()| output.flush())
                });
                if written.is_err() {
                    *output = None;
                }
            }
            DataFrame::Stderr(bytes) => {
                let _ = io::stderr().write_all(bytes);
            }
            DataFrame::ExitCode(code) => {
                return Ok(ControlFlow::Break(u8::try_from(code).unwrap_or(LOST)));
            }
            DataFrame::Hello(_) | DataFrame::Stdin(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    });
    ended.ok().flatten().unwrap_or(LOST)
}

/// Our stdin without the standard library's buffer and lock.
fn own_stdin() -> anyhow::Result<std::fs::File> {
    let fd: OwnedFd = rustix::io::dup(rustix::stdio::stdin()).context("stdin is closed")?;
    Ok(fd.into())
}
