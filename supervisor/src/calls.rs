//! Calls of the person at the host into VMs: the VM is started when needed, the broker gives the stream.

pub(crate) mod errand;

use std::{os::fd::AsFd, sync::Arc};

use casemate_api::{CallStream, Qrexec1Proxy};
use tokio::{
    sync::watch,
    time::{Duration, timeout},
};
use zbus::zvariant::OwnedFd;

use crate::{
    attach, disposables,
    driver::Handle,
    house::{House, parse},
    life::Request,
    refusal::{Kind, Refusal},
    watched::{Watched, watch as watch_readable},
};

/// How long the broker may take to set a call up.
const SET_UP: Duration = Duration::from_secs(60);

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callee<'a> {
    Command(&'a str),
    Service(&'a str),
}

/// Calls into a VM, starting it when needed.
pub(crate) async fn call(
    house: &Arc<House>,
    name: &str,
    user: &str,
    callee: Callee<'_>,
) -> Result<OwnedFd, Refusal> {
    let name = parse(name)?;
    house.driver(&name)?.ask(Request::Start).await?;
    // A VM that runs may be unknown to a broker that was just started anew.
    attach::wait_agent(house, &name, SET_UP).await?;
    Ok(set_up(house, name.as_str(), user, callee).await?.stream)
}

/// Calls a service in a fresh disposable, which ends with the call. `client` is closed when the caller has gone.
pub(crate) async fn call_disposable(
    house: &Arc<House>,
    template: &str,
    service: &str,
    client: watch::Receiver<()>,
) -> Result<(String, OwnedFd), Refusal> {
    let (name, handle) = disposables::create(house, "", template).await?;
    match set_up(house, name.as_str(), "", Callee::Service(service)).await {
        Ok(CallStream { call, stream }) => {
            handle.ends_with_call(call).await;
            let held = Held::new(&stream, client)?;
            end_with_call(house, handle, call, Some(held));
            Ok((name.to_string(), stream))
        }
        Err(refusal) => {
            handle.ask(Request::Destroy).await?;
            Err(refusal)
        }
    }
}

/// The caller's end of a stream, held so that the disposable lives until its last bytes have left it.
///
/// Only as long as the caller is there: a copy of the descriptor keeps the stream open, and the program in the VM must
/// see its end when the caller dies.
#[derive(Debug)]
pub(crate) struct Held {
    stream: Watched<std::os::fd::OwnedFd>,
    client: watch::Receiver<()>,
}

impl Held {
    fn new(stream: &OwnedFd, client: watch::Receiver<()>) -> Result<Self, Refusal> {
        let watched = attach::copy(stream.as_fd())
            .and_then(|copy| watch_readable(copy).map_err(|error| Refusal::io("no watch", &error)));
        Ok(Self {
            stream: watched?,
            client,
        })
    }

    async fn client_gone(&mut self) {
        while self.client.changed().await.is_ok() {}
    }

    /// Returns when the VM's end is closed and all its bytes are on our side, or when nobody wants them.
    async fn drained(mut self) {
        let closed = async {
            while let Ok(mut ready) = self.stream.readable().await {
                if ready.ready().is_read_closed() {
                    return;
                }
                ready.clear_ready();
            }
        };
        tokio::select! {
            () = closed => {}
            _ = self.client.wait_for(|()| false) => {}
        }
    }
}

/// Destroys a disposable when a call of the broker has ended.
pub(crate) fn end_with_call(house: &Arc<House>, handle: Handle, call: u64, held: Option<Held>) {
    let house = Arc::clone(house);
    tokio::spawn(async move {
        if let Err(refusal) = wait_call(&house, call, held).await {
            // The call may well go on without the broker; a document that a person looks at is not taken away.
            tracing::warn!(call, %refusal, "the end of a call is not known; its disposable stays until it is killed");
            return;
        }
        if let Err(refusal) = handle.ask(Request::Destroy).await {
            tracing::debug!(call, %refusal, "the disposable had ended before its call");
        }
    });
}

async fn wait_call(house: &House, call: u64, mut held: Option<Held>) -> Result<(), Refusal> {
    let connection = house.broker.connection().await?;
    let broker = proxy(&connection).await?;
    let mut ended = Box::pin(broker.wait_call(call));
    loop {
        let client_gone = async {
            match &mut held {
                Some(held) => held.client_gone().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = &mut ended => {
                result?;
                break;
            }
            () = client_gone => held = None,
        }
    }
    if let Some(held) = held {
        held.drained().await;
    }
    Ok(())
}

async fn set_up(
    house: &House,
    name: &str,
    user: &str,
    callee: Callee<'_>,
) -> Result<CallStream, Refusal> {
    let connection = house.broker.connection().await?;
    let broker = proxy(&connection).await?;
    let call = async {
        match callee {
            Callee::Command(command) => broker.run_command(name, user, command).await,
            Callee::Service(service) => broker.call_service(name, user, service).await,
        }
    };
    match timeout(SET_UP, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Refusal::new(
            Kind::TimedOut,
            format!("the broker did not set up the call to '{name}' within a minute"),
        )),
    }
}

async fn proxy(connection: &zbus::Connection) -> Result<Qrexec1Proxy<'static>, Refusal> {
    casemate_api::broker(connection)
        .await
        .map_err(|error| Refusal::failed(format!("the broker has gone: {error}")))
}
