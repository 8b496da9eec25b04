//! Programs in this VM that want to call out: the socket on which they ask.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
    thread,
};

use anyhow::Context;
use casemate_qrexec_wire::{ControlDecoder, ToBroker, Trigger, Version};

use super::{control::Calls, data::invalid};

/// Where local clients ask, as in the reference.
pub(crate) const SOCKET: &str = "/run/qubes/qrexec-agent";

/// Listens for local clients in threads of its own.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn listen(path: &Path, calls: Arc<Calls>) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    // Any program of the VM may ask; policy judges the VM, not the program.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .context("cannot open the socket to everyone")?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let calls = Arc::clone(&calls);
            thread::spawn(move || {
                if let Err(error) = client(stream, &calls) {
                    tracing::info!(%error, "a local client ended early");
                }
            });
        }
    });
    Ok(())
}

/// One client: its request goes out, the answer comes back, and the end of its connection ends the call.
fn client(mut stream: UnixStream, calls: &Calls) -> io::Result<()> {
    let Some(accepted) = calls.trigger(request(&mut stream)?)?.wait() else {
        return Ok(());
    };
    stream.write_all(&accepted.encode())?;
    // The client keeps its connection as long as the call lasts and says nothing more; how it ends does not matter.
    let _ = stream.read(&mut [0]);
    calls.terminated(accepted)
}

fn request(stream: &mut UnixStream) -> io::Result<Trigger> {
    let mut decoder = ControlDecoder::<ToBroker>::without_hello(Version::OURS);
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
