//! `casemate-qrexec call-vchan`: the admin side's client end of one call, over sockets in a directory.

mod exchange;

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use anyhow::{Context, Result, bail};
use casemate_qrexec_wire::{
    CommandLine, ExecParams, Execute, Header, Message, ServiceCall, ToAgent, Version, Work,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    arguments::CallVchan,
    broker::{ADMIN_DOMAIN, ADMIN_NAME},
    local::LOCAL_VERSION,
    vchan,
};

/// Exit code: trouble of ours.
pub(crate) const TROUBLE: u8 = 125;

/// Exit code: the stream was lost before the service had ended.
const LOST: u8 = 255;

/// Tells whoever calls what went wrong. When nobody hears it, the exit code is left.
pub(crate) fn complain(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "casemate-qrexec: {error:#}");
}

/// Calls, and returns the exit code of the call.
pub(crate) fn run(call: &CallVchan) -> Result<u8> {
    let work = if call.service {
        let service: ServiceCall = call.command.parse().context("no such service")?;
        Work::Service {
            call: service.full().to_owned(),
            source: ADMIN_NAME.to_owned(),
            target: None,
        }
    } else {
        Work::Shell(call.command.as_bytes().to_vec())
    };
    let execute = Execute {
        user: call.user.clone(),
        nogui: false,
        work,
    };
    let command = execute.command_line().context("the command is too long")?;
    let (broker, place) = ask(call, command)?;
    let path = vchan::path(&call.vchan_dir, ADMIN_DOMAIN, place.domain, place.port);
    // Left by a client that was killed: the broker gives a port to one call at a time.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    let stream = accept(&listener, &broker);
    fs::remove_file(&path).ok();
    Ok(stream?.map_or(LOST, |stream| exchange::run(stream, broker, !call.just)))
}

/// The agent's connection; `None` when the broker says that there will be none.
fn accept(listener: &UnixListener, broker: &UnixStream) -> Result<Option<UnixStream>> {
    let [connected, over] = readable([listener.as_fd(), broker.as_fd()])?;
    if over && !connected {
        return Ok(None);
    }
    let (stream, _) = listener.accept().context("the agent did not connect")?;
    Ok(Some(stream))
}

/// Waits until there is something to read of either, and says of which.
fn readable<const N: usize>(streams: [BorrowedFd<'_>; N]) -> io::Result<[bool; N]> {
    wait(streams, PollFlags::IN)
}

/// Waits until one of them is ready, or has failed, and says which.
fn wait<const N: usize>(fds: [BorrowedFd<'_>; N], flags: PollFlags) -> io::Result<[bool; N]> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, flags));
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds.map(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gets a port from the broker.
fn ask(call: &CallVchan, command: CommandLine) -> Result<(UnixStream, ExecParams)> {
    let socket = call.vchan_dir.join(format!("qrexec.{}", call.vm));
    let mut broker = UnixStream::connect(&socket).with_context(|| {
        format!(
            "cannot reach the broker at {}; does it serve '{}'?",
            socket.display(),
            call.vm
        )
    })?;
    let params = ExecParams {
        domain: ADMIN_DOMAIN,
        port: 0,
    };
    let mut request = Vec::new();
    ToAgent::Hello(LOCAL_VERSION).encode(Version::OLDEST, &mut request)?;
    match call.just {
        true => ToAgent::JustExecute(params, command),
        false => ToAgent::Execute(params, command),
    }
    .encode(Version::OURS, &mut request)?;
    broker.write_all(&request)?;
    let refused = "the broker refused the call; is the agent of the VM there?";
    let mut hello = [0; Header::LEN + 4];
    broker.read_exact(&mut hello).context(refused)?;
    let mut answer = [0; Header::LEN + ExecParams::LEN];
    broker.read_exact(&mut answer).context(refused)?;
    let Some((_, params)) = answer.split_last_chunk::<{ ExecParams::LEN }>() else {
        bail!("the broker gave no port");
    };
    Ok((broker, ExecParams::decode(*params)))
}
