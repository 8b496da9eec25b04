//! Clients of the admin side on the socket of a VM, in the manner of the reference's daemon: HELLO, one command, the
//! port of its stream; then the connection is open as long as the call.

use std::{io, sync::Arc, time::Duration};

use casemate_qrexec_wire::{ControlDecoder, ExecParams, Message, ToAgent, Version};
use casemate_vm::VmName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    broker::{ADMIN_DOMAIN, AGENT, Broker, LAST_BREATH, service_of},
    session::{Host, Streams},
};

/// Clients of one VM at a time, as many as in the reference: a script in a loop cannot use up all descriptors.
const MAX_CLIENTS: usize = 256;

/// The version that a daemon of the reference says to its clients, and they to it.
pub(crate) const LOCAL_VERSION: u32 = 3;

/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(10);

/// Serves the clients of one VM for ever.
pub(crate) async fn accept(listener: UnixListener, vm: VmName, broker: Arc<Broker>) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (vm, broker) = (vm.clone(), Arc::clone(&broker));
                tokio::spawn(async move {
                    if let Err(error) = client(stream, &vm, &broker).await {
                        tracing::info!(%vm, %error, "a client of the admin side was not served");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; those that are served will give some back.
                tracing::warn!(%error, "no client accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn client(mut stream: UnixStream, name: &VmName, broker: &Broker) -> io::Result<()> {
    let mut hello = Vec::new();
    ToAgent::Hello(LOCAL_VERSION)
        .encode(Version::OLDEST, &mut hello)
        .map_err(invalid)?;
    stream.write_all(&hello).await?;
    let request = timeout(REQUEST, request(&mut stream)).await;
    let request = request.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (params, command, streams) = match request {
        ToAgent::Execute(params, command) => (params, command, Streams::Connected),
        ToAgent::JustExecute(params, command) => (params, command, Streams::None),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    // A client could name a VM as the other end, as the reference's policy daemon does; here that is our own business.
    if params
        != (ExecParams {
            domain: ADMIN_DOMAIN,
            port: 0,
        })
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "only calls of the admin side on a port of our choice",
        ));
    }
    let vm = broker.vm(name).ok_or(io::ErrorKind::NotFound)?;
    let ready = timeout(AGENT, vm.wait_agent()).await;
    ready
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        .map_err(io::Error::other)?;
    let service = service_of(&command);
    let ticket = broker.admin_ticket(name, &service);
    let (_, end) = vm.ends(Host::StaysOut)?;
    let served = vm.serve(ADMIN_DOMAIN, command, streams, end).await;
    let mut leg = served.map_err(io::Error::other)?;
    stream
        .write_all(&answer(
            streams,
            ExecParams {
                domain: vm.id.0,
                port: leg.port,
            },
        ))
        .await?;
    // A client that hears the end of this connection lets go of the data stream, which only it can do.
    ticket.runs(name.as_str(), true);
    // The client says nothing more. Its end is not the call's: the agent notices that of the data stream.
    let killed = tokio::select! {
        () = leg.ended() => None,
        by = ticket.killed() => Some(by),
    };
    if let Some(by) = killed {
        broker.record_killed_admin(name, &service, &by);
        drop(stream);
        let _ = timeout(LAST_BREATH, leg.ended()).await;
    }
    Ok(())
}

/// A frame of the request's type with nothing but the parameters, which no direction of a control stream has.
fn answer(streams: Streams, params: ExecParams) -> Vec<u8> {
    let kind: u32 = match streams {
        Streams::Connected => 0x200,
        Streams::None => 0x201,
    };
    let mut frame = kind.to_le_bytes().to_vec();
    frame.extend_from_slice(&8u32.to_le_bytes());
    frame.extend_from_slice(&params.encode());
    frame
}

async fn request(stream: &mut UnixStream) -> io::Result<ToAgent> {
    let mut decoder = ControlDecoder::<ToAgent>::default();
    let mut piece = [0; 4096];
    loop {
        match decoder.take().map_err(invalid)? {
            Some(ToAgent::Hello(version)) if version >= LOCAL_VERSION => {}
            Some(ToAgent::Hello(_)) => return Err(io::ErrorKind::Unsupported.into()),
            Some(request) => return Ok(request),
            None => {
                let read = stream.read(&mut piece).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                decoder.feed(piece.get(..read).unwrap_or_default());
            }
        }
    }
}

fn invalid(error: casemate_qrexec_wire::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
