//! The other end of split keys: listens where programs look for an agent, and makes a call of each connection.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{fs::DirBuilderExt, net::UnixListener},
    },
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Context;

/// Pause after a failure to accept, such as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens at `path` for ever; each connection is a call of `service` in `target`.
pub(crate) fn run(path: &Path, target: &str, service: &str) -> anyhow::Result<u8> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    loop {
        let accepted = listener.accept().and_then(|(stream, _)| {
            let (input, output) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream));
            Command::new("/proc/self/exe")
                .args(["qrexec-client-vm", "--", target, service])
                .stdin(input)
                .stdout(output)
                .spawn()
        });
        match accepted {
            Ok(mut child) => drop(thread::spawn(move || child.wait())),
            Err(error) => {
                tracing::warn!(%error, "a connection could not become a call");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}
