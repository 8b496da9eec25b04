//! Connecting to and serving a peer-to-peer bus: the handshake, no method.

use std::path::Path;

use tokio::net::UnixStream;
use zbus::{Connection, connection::Builder, object_server::Interface};

use crate::{Bus, Compositor1Proxy, Qrexec1Proxy, Supervisor1Proxy};

impl Bus {
    /// Connects to whoever serves this bus below the runtime directory.
    ///
    /// # Errors
    /// When nobody listens there, or the other side does not speak D-Bus.
    pub async fn connect(self, runtime: &Path) -> zbus::Result<Connection> {
        let stream = UnixStream::connect(self.socket(runtime)).await?;
        Builder::unix_stream(stream).p2p().build().await
    }

    /// Serves `interface` to one client that was accepted on this bus's socket.
    ///
    /// The client is served until the returned connection is dropped or closed by its other end.
    ///
    /// # Errors
    /// When the client does not speak D-Bus.
    pub async fn serve<I: Interface>(
        self,
        stream: UnixStream,
        interface: I,
    ) -> zbus::Result<Connection> {
        Builder::unix_stream(stream)
            .server(zbus::Guid::generate())?
            .p2p()
            .serve_at(self.object(), interface)?
            .build()
            .await
    }
}

/// The supervisor at the other end of a connection that [`Bus::connect`] made.
///
/// # Errors
/// When the connection has gone.
pub async fn supervisor(connection: &Connection) -> zbus::Result<Supervisor1Proxy<'static>> {
    Supervisor1Proxy::new(connection, Bus::Supervisor.name()).await
}

/// The broker at the other end of a connection that [`Bus::connect`] made.
///
/// # Errors
/// When the connection has gone.
pub async fn broker(connection: &Connection) -> zbus::Result<Qrexec1Proxy<'static>> {
    Qrexec1Proxy::new(connection, Bus::Qrexec.name()).await
}

/// The compositor at the other end of a connection that [`Bus::connect`] made.
///
/// # Errors
/// When the connection has gone.
pub async fn compositor(connection: &Connection) -> zbus::Result<Compositor1Proxy<'static>> {
    Compositor1Proxy::new(connection, Bus::Compositor.name()).await
}
