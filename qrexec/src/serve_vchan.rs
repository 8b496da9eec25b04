//! The broker alone: agents over sockets in a directory, facts from a file.

use std::{
    fs,
    os::unix::{fs::symlink, net},
    path::Path,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use casemate_api::Bus;
use casemate_vm::{VmId, VmName};
use tokio::{
    net::UnixListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};

use crate::{
    alone::{Alone, Asking},
    arguments::ServeVchan,
    audit::Audit,
    broker::Broker,
    local,
    peers::Peers,
    question, serve,
    session::Carrier,
    vchan::Sockets,
};

/// Runs until a signal.
pub(crate) async fn run(arguments: ServeVchan) -> Result<()> {
    let ServeVchan {
        vchan_dir,
        policy_dir,
        facts,
        vms,
        ask,
        ask_command,
        policy_socket,
        state,
    } = arguments;
    let state = state.unwrap_or_else(|| vchan_dir.clone());
    let audit = Audit::open(&state)
        .with_context(|| format!("cannot open the audit log in {}", state.display()))?;
    let asking = ask_command.map_or(Asking::Standing(ask), Asking::Program);
    let alone = Alone::new(facts, asking);
    alone.facts().context("cannot use the facts")?;
    let broker = Broker::new(Peers::Alone(alone), policy_dir, audit);
    for (name, id) in vms {
        let sockets = Sockets::new(vchan_dir.clone(), id);
        broker
            .attach(name.clone(), VmId(id), Carrier::Sockets(sockets))
            .await;
        clients(&vchan_dir, name, id, &broker)?;
    }
    if let Some(path) = policy_socket {
        let listener = net::UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let (broker, runtime) = (Arc::clone(&broker), Handle::current());
        listener.set_nonblocking(true)?;
        thread::spawn(move || question::serve(&listener, &broker, &runtime));
    }
    let bus = serve::listen(&vchan_dir)?;
    tracing::info!(directory = %vchan_dir.display(), "ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        result = serve::accept(bus, &broker) => result?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = fs::remove_file(Bus::Qrexec.socket(&vchan_dir));
    Ok(())
}

/// Listens for the admin side's clients of one VM, under its number and its name, as the reference's daemon does.
fn clients(directory: &Path, name: VmName, id: u32, broker: &Arc<Broker>) -> Result<()> {
    let socket = directory.join(format!("qrexec.{id}"));
    let link = directory.join(format!("qrexec.{name}"));
    for path in [&socket, &link] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    symlink(format!("qrexec.{id}"), &link)
        .with_context(|| format!("cannot make {}", link.display()))?;
    tokio::spawn(local::accept(listener, name, Arc::clone(broker)));
    Ok(())
}
