//! The bus: serves `Compositor1` in a thread of its own and turns each call into a [`Request`] for the desktop.
//!
//! The interface keeps no state. A reply travels back through the channel inside the request.

mod interface;
mod screenshot;

#[cfg(test)]
pub(crate) use screenshot::write_png;

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
    thread::JoinHandle,
};

use casemate_api::{Answer, Bus, Notice, WindowInfo};
use casemate_vm::{Label, VmName};
use smithay::reexports::calloop::channel::Sender;
use tokio::sync::{oneshot, watch};

use crate::{
    desktop::AttachError,
    input::InputEvent,
    prompt::{Question, TooMany},
    scene::Frame,
};

/// A call, as the desktop sees it.
#[derive(Debug)]
pub(crate) enum Request {
    Attach {
        name: VmName,
        label: Label,
        link: OwnedFd,
        memory: OwnedFd,
        reply: oneshot::Sender<Result<(), AttachError>>,
    },
    Detach {
        name: VmName,
        reply: oneshot::Sender<bool>,
    },
    Attached {
        reply: oneshot::Sender<Vec<String>>,
    },
    Ask {
        question: Question,
        queued: oneshot::Sender<Result<(), TooMany>>,
        answer: oneshot::Sender<Answer>,
    },
    /// Somebody who had asked has gone; the desktop's turn after this one finds out which question that was.
    AskerGone,
    Notify {
        notice: Notice,
        reply: oneshot::Sender<()>,
    },
    Windows {
        reply: oneshot::Sender<Vec<WindowInfo>>,
    },
    Screenshot {
        reply: oneshot::Sender<Frame>,
    },
    /// `false` when there is a real seat.
    Inject {
        event: InputEvent,
        reply: oneshot::Sender<bool>,
    },
}

/// Starts serving. The socket exists when this returns.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(runtime: &Path, requests: Sender<Request>) -> io::Result<JoinHandle<()>> {
    let socket = Bus::Compositor.socket(runtime);
    let listener = listen(&socket)?;
    std::thread::Builder::new()
        .name("bus".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(accept(listener, requests)),
                Err(error) => tracing::error!(%error, "the bus cannot start"),
            }
        })
}

/// Binds the socket. One that is left over from a compositor that died makes room; a live one does not.
fn listen(socket: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::net::{UnixListener, UnixStream};

    match UnixStream::connect(socket) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("a compositor already serves {}", socket.display()),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(socket)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept(listener: std::os::unix::net::UnixListener, requests: Sender<Request>) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the bus cannot listen");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(client(stream, requests));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(stream: tokio::net::UnixStream, requests: Sender<Request>) {
    // Dropped with the connection: a method that waits for the person is not ended by that itself.
    let (_connected, gone) = watch::channel(());
    let interface = interface::Compositor::new(requests, gone);
    match Bus::Compositor.serve(stream, interface).await {
        Ok(connection) => connection.closed().await,
        Err(error) => tracing::debug!(%error, "a client did not speak D-Bus"),
    }
}
