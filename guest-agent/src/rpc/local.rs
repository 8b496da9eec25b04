//! Programs in this VM that want to call out: the socket on which they ask.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use casemate_qrexec_stream::invalid;
use casemate_qrexec_wire::{
    ControlDecoder, FrameType, Header, ToBroker, Trigger, Version, limits::MAX_DATA_PORTS,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::control::{Calls, Word};

/// Where local clients ask, as in the reference.
pub(crate) const SOCKET: &str = "/run/qubes/qrexec-agent";

/// Most clients at once, as many as there are data ports: a program that connects and hangs holds no more threads.
const MAX_CLIENTS: usize = MAX_DATA_PORTS as usize;

/// How long a client may take to say what it wants.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// How often it is looked whether a client still waits: a prompt for one that has gone holds no thread.
const LOOK: Duration = Duration::from_millis(500);

/// Pause after a failure to accept, such as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that has its name only when it listens and everyone may connect: a client that sees it is not refused.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let unready = path.with_added_extension("unready");
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unready)?;
    // Any program of the VM may ask; policy judges the VM, not the program.
    fs::set_permissions(&unready, fs::Permissions::from_mode(0o666))?;
    fs::rename(&unready, path)?;
    Ok(listener)
}

/// Listens for local clients in threads of its own.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn listen(path: &Path, calls: Arc<Calls>) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let listener = bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let clients = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if clients.fetch_add(1, Ordering::AcqRel) >= MAX_CLIENTS {
                // Closed at once: the client reads that as refused.
                clients.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (calls, clients) = (Arc::clone(&calls), Arc::clone(&clients));
            thread::spawn(move || {
                if let Err(error) = client(stream, &calls) {
                    tracing::info!(%error, "a local client ended early");
                }
                clients.fetch_sub(1, Ordering::AcqRel);
            });
        }
    });
    Ok(())
}

/// One client: its request goes out, the answer comes back, and the end of its connection ends the call.
fn client(mut stream: UnixStream, calls: &Calls) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_WAIT))?;
    let request = request(&mut stream)?;
    stream.set_read_timeout(None)?;
    let answer = calls.trigger(request)?;
    let accepted = loop {
        match answer.wait(LOOK) {
            Word::Accepted(place) => break place,
            Word::Refused => return Ok(()),
            Word::Nothing if is_gone(&stream) => {
                calls.forget(&answer);
                return Ok(());
            }
            Word::Nothing => {}
        }
    };
    // A client that has gone meanwhile ends its call by that; the host waits for the word.
    if stream.write_all(&accepted.encode()).is_ok() {
        // The client keeps its connection as long as the call lasts and says nothing more; how it ends does not matter.
        let _ = stream.read(&mut [0]);
    }
    calls.terminated(accepted)
}

/// Whether a client that should only wait has closed its connection.
fn is_gone(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Local clients speak the newest form only, as those of the reference do.
fn request(stream: &mut UnixStream) -> io::Result<Trigger> {
    let mut header = [0; Header::LEN];
    stream.read_exact(&mut header)?;
    if Header::decode(header).kind != FrameType::TriggerService4 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut decoder = ControlDecoder::<ToBroker>::without_hello(Version::OURS);
    decoder.feed(&header);
    let mut buffer = [0; 4096];
    loop {
        match decoder.take().map_err(invalid)? {
            Some(ToBroker::Trigger(trigger)) => return Ok(trigger),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decoder.feed(buffer.get(..read).unwrap_or_default());
    }
}
