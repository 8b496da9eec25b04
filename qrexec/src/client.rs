//! `casemate-qrexec call-vchan`: the admin side's client end of one call, over sockets in a directory.
//!
//! Two directions, each blocking by itself, so that a reader that does not read stops its writer and nothing is held but
//! one frame: in a thread, our stdin becomes STDIN frames; what the service says goes to stdout and stderr until its
//! exit code. A call that says nothing needs no other thread.

use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use casemate_qrexec_wire::{
    CommandLine, DataDecoder, DataFrame, ExecParams, Execute, Header, Message, ServiceCall,
    ToAgent, Version, Work, limits::MAX_DATA_CHUNK,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
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

/// Bytes read from the stream at one time: several frames, so that few calls of the kernel move many bytes.
const PIECE: usize = 4 * MAX_DATA_CHUNK;

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
    Ok(stream?.map_or(LOST, |stream| exchange(stream, broker, !call.just)))
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

/// Waits until there is something to read of either.
fn readable(streams: [BorrowedFd<'_>; 2]) -> io::Result<[bool; 2]> {
    let mut fds = streams.map(|stream| PollFd::from_borrowed_fd(stream, PollFlags::IN));
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds.map(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The broker's connection, which it closes when the agent has reported the end or somebody killed the call: then the
/// data stream brings nothing but what it holds already.
enum Broker {
    /// Looked at while we wait for data.
    Watched(UnixStream),
    /// By a thread, because we may have to wait elsewhere.
    Elsewhere,
    /// The stream was shut.
    Over,
}

impl Broker {
    /// Waits until the stream has something, if only its end.
    fn wait(&mut self, stream: &UnixStream) -> io::Result<()> {
        let Self::Watched(broker) = self else {
            // Whoever reads it waits as well.
            return Ok(());
        };
        let [_, over] = readable([stream.as_fd(), broker.as_fd()])?;
        if over {
            *self = Self::Over;
            // One that the agent has shut already is fine.
            let _ = stream.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    /// From now on the caller may be kept waiting by somebody else than the stream.
    fn leave(&mut self, stream: &UnixStream) -> io::Result<()> {
        if let Self::Watched(broker) = self {
            let (mut broker, stream) = (broker.try_clone()?, stream.try_clone()?);
            thread::spawn(move || {
                let _ = broker.read(&mut [0]);
                let _ = stream.shutdown(Shutdown::Both);
            });
            *self = Self::Elsewhere;
        }
        Ok(())
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

/// The client end of a data stream, until the exit code.
fn exchange(stream: UnixStream, broker: UnixStream, with_stdin: bool) -> u8 {
    let mut broker = Broker::Watched(broker);
    let talk = || -> io::Result<u8> {
        let mut writer = stream.try_clone()?;
        let mut hello = Vec::new();
        let ours = DataFrame::Hello(Version::OURS.number());
        ours.encode(Version::OLDEST, &mut hello)
            .map_err(io::Error::other)?;
        writer.write_all(&hello)?;
        let mut reader = stream;
        let mut decoder = DataDecoder::default();
        let mut piece = vec![0; PIECE];
        let mut input = with_stdin.then_some(writer);
        let (mut out, mut err) = (Some(stdout()?), Some(stderr()?));
        loop {
            while let Some(frame) = decoder.take().map_err(io::Error::other)? {
                match frame {
                    DataFrame::Stdout([]) => out = None,
                    DataFrame::Stderr([]) => err = None,
                    // A reader of ours that has gone is like one that reads all.
                    DataFrame::Stdout(bytes) => {
                        broker.leave(&reader)?;
                        put(&mut out, bytes);
                    }
                    DataFrame::Stderr(bytes) => {
                        broker.leave(&reader)?;
                        put(&mut err, bytes);
                    }
                    DataFrame::ExitCode(code) => return Ok(u8::try_from(code).unwrap_or(LOST)),
                    DataFrame::Hello(_) | DataFrame::Stdin(_) => {}
                }
            }
            if let Some(version) = decoder.version()
                && let Some(writer) = input.take()
            {
                send(Sender::new(writer, version));
            }
            broker.wait(&reader)?;
            let read = reader.read(&mut piece)?;
            if read == 0 {
                return Ok(LOST);
            }
            decoder.feed(piece.get(..read).unwrap_or_default());
        }
    };
    talk().unwrap_or_else(|error| {
        complain(&anyhow::Error::new(error).context("the call was lost"));
        LOST
    })
}

/// Sends our stdin. Most calls have none, and its end needs no thread; a first frame fits into the stream. A service that
/// takes no input, or an input that cannot be read, is no reason not to hear what the service says.
fn send(mut sender: Sender) {
    let input = io::stdin();
    let mut fds = [PollFd::new(&input, PollFlags::IN)];
    let at_once = poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    if !at_once || sender.next().unwrap_or(false) {
        thread::spawn(move || while sender.next().unwrap_or(false) {});
    }
}

/// Our stdin, frame by frame; header and body in one write.
struct Sender {
    stream: UnixStream,
    frame: Vec<u8>,
}

impl Sender {
    fn new(stream: UnixStream, version: Version) -> Self {
        let frame = vec![0; Header::LEN + version.max_data_chunk()];
        Self { stream, frame }
    }

    /// Sends what can be read at once; says whether there may be more.
    fn next(&mut self) -> io::Result<bool> {
        let body = self.frame.get_mut(Header::LEN..).unwrap_or_default();
        let read = loop {
            match rustix::io::read(rustix::stdio::stdin(), &mut *body) {
                Err(Errno::INTR) => {}
                read => break read?,
            }
        };
        let len = u32::try_from(read).unwrap_or_default();
        let header = Header {
            kind: casemate_qrexec_wire::FrameType::DataStdin,
            len,
        }
        .encode();
        if let Some(place) = self.frame.first_chunk_mut() {
            *place = header;
        }
        let whole = self.frame.get(..Header::LEN + read).unwrap_or_default();
        self.stream.write_all(whole)?;
        Ok(read > 0)
    }
}

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
