//! The life of the broker itself: one instance, its socket, its clients.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use casemate_api::Bus;
use futures_util::StreamExt;
use rustix::fs::{FlockOperation, flock};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::timeout,
};
use zbus::MessageStream;

use crate::{audit::Audit, broker::Broker, bus::QrexecBus, peers::Peers};

/// Clients at a time. Programs of one user; the number only keeps a runaway script from using up all descriptors.
const MAX_CLIENTS: usize = 64;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Runs until a signal. VMs run on, and their calls that are set up too; nobody can make new ones.
pub(crate) async fn serve(runtime: &Path, policy: &[PathBuf], state: &Path) -> Result<()> {
    let _instance = only_instance(runtime)?;
    let audit = Audit::open(state)
        .with_context(|| format!("cannot open the audit log in {}", state.display()))?;
    let broker = Broker::new(Peers::house(runtime.to_owned()), policy.to_owned(), audit);
    let listener = listen(runtime)?;
    tracing::info!(runtime = %runtime.display(), "ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        result = accept(listener, &broker) => result?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // The lock is still held: nobody else can have made this socket.
    let _ = fs::remove_file(Bus::Qrexec.socket(runtime));
    Ok(())
}

/// The lock that says that this broker is the only one; held until the process ends, however it does.
fn only_instance(runtime: &Path) -> Result<File> {
    let path = runtime.join("qrexec.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!(
                "casemate-qrexec runs already ({} is locked)",
                path.display()
            )
        }
        Err(errno) => Err(io::Error::from(errno)).context("cannot take the lock"),
    }
}

pub(crate) fn listen(runtime: &Path) -> Result<UnixListener> {
    let path = Bus::Qrexec.socket(runtime);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves clients for ever.
pub(crate) async fn accept(listener: UnixListener, broker: &Arc<Broker>) -> Result<()> {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let permit = Arc::clone(&clients).acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; those that are served will give some back.
                tracing::warn!(%error, "no client accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            if let Err(error) = client(stream, broker).await {
                tracing::debug!(%error, "client");
            }
            drop(permit);
        });
    }
}

async fn client(stream: UnixStream, broker: Arc<Broker>) -> Result<()> {
    let connection = timeout(HANDSHAKE, Bus::Qrexec.serve(stream, QrexecBus(broker))).await??;
    let mut messages = MessageStream::from(&connection);
    while let Some(Ok(_)) = messages.next().await {}
    Ok(())
}
