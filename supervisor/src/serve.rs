//! The life of the supervisor itself: one instance, its house, its clients.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use casemate_api::Bus;
use futures_util::StreamExt;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Resource, getrlimit, setrlimit},
};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    time::timeout,
};
use zbus::MessageStream;

use crate::{
    adopt, bus::SupervisorBus, house::House, paths::Paths, settings::Settings, suspend, warm,
};

/// Clients at a time. Programs of one user; the number only keeps a runaway script from using up all descriptors.
const MAX_CLIENTS: usize = 256;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Runs until a signal; VMs stay.
pub(crate) async fn serve() -> Result<()> {
    refuse_root()?;
    let paths = Paths::from_environment()?;
    paths.prepare()?;
    let _instance = only_instance(&paths)?;
    raise_descriptor_limit();
    let settings = Settings::load(&paths.config)?;
    let house = House::open(paths, settings)?;
    // A VM that has ended meanwhile is taken from services that run on.
    tokio::join!(house.broker.probed(), house.compositor.probed());
    adopt::recover(&house).context("cannot finish what was cut")?;
    warm::sweep(&house);
    adopt::adopt(&house).context("cannot read the records of running VMs")?;
    let listener = listen(&house.paths)?;
    tracing::info!(runtime = %house.paths.runtime.display(), "ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        result = accept(listener, &house) => result?,
        never = suspend::follow(Arc::clone(&house)) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // The lock is still held: nobody else can have made this socket.
    let _ = fs::remove_file(Bus::Supervisor.socket(&house.paths.runtime));
    tracing::info!("ended; VMs run on");
    Ok(())
}

fn refuse_root() -> Result<()> {
    let allowed = std::env::var_os("CASEMATE_ALLOW_ROOT").is_some_and(|value| value == "1");
    if rustix::process::geteuid().is_root() && !allowed {
        bail!(
            "casemated needs no root and is safer without: a VM that breaks out would find itself root. Run it as \
             yourself, or set CASEMATE_ALLOW_ROOT=1 where there is no other user"
        );
    }
    Ok(())
}

/// The lock that says that this supervisor is the only one; held until the process ends, however it does.
fn only_instance(paths: &Paths) -> Result<File> {
    let path = paths.runtime.join("lock");
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
            bail!("casemated runs already ({} is locked)", path.display())
        }
        Err(errno) => Err(io::Error::from(errno)).context("cannot take the lock"),
    }
}

/// Each VM takes a few descriptors; the usual soft limit of 1024 is for programs of another time.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%errno, "the limit of descriptors stays");
    }
}

fn listen(paths: &Paths) -> Result<UnixListener> {
    let path = Bus::Supervisor.socket(&paths.runtime);
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

async fn accept(listener: UnixListener, house: &Arc<House>) -> Result<()> {
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
        let house = Arc::clone(house);
        tokio::spawn(async move {
            if let Err(error) = serve_client(stream, house).await {
                tracing::debug!(%error, "client");
            }
            drop(permit);
        });
    }
}

async fn serve_client(stream: UnixStream, house: Arc<House>) -> Result<()> {
    // Closed when this function returns, which is when the client has gone.
    let (_here, client) = watch::channel(());
    let bus = SupervisorBus::new(house, client);
    let connection = timeout(HANDSHAKE, Bus::Supervisor.serve(stream, bus)).await??;
    let mut messages = MessageStream::from(&connection);
    while let Some(Ok(_)) = messages.next().await {}
    Ok(())
}
