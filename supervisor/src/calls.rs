//! Calls of the person at the host into VMs: the VM is started when needed, the broker gives the stream.

use std::sync::Arc;

use casemate_api::{CallStream, Qrexec1Proxy};
use tokio::time::{Duration, timeout};
use zbus::zvariant::OwnedFd;

use crate::{
    disposables,
    driver::Handle,
    house::{House, parse},
    life::Request,
    refusal::{Kind, Refusal},
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
    Ok(set_up(house, name.as_str(), user, callee).await?.stream)
}

/// Calls a service in a fresh disposable, which ends with the call.
pub(crate) async fn call_disposable(
    house: &Arc<House>,
    template: &str,
    service: &str,
) -> Result<(String, OwnedFd), Refusal> {
    let (name, handle) = disposables::create(house, "", template).await?;
    match set_up(house, name.as_str(), "", Callee::Service(service)).await {
        Ok(CallStream { call, stream }) => {
            handle.ends_with_call(call).await;
            end_with_call(house, handle, call);
            Ok((name.to_string(), stream))
        }
        Err(refusal) => {
            handle.ask(Request::Destroy).await?;
            Err(refusal)
        }
    }
}

/// Destroys a disposable when a call of the broker has ended.
pub(crate) fn end_with_call(house: &Arc<House>, handle: Handle, call: u64) {
    let house = Arc::clone(house);
    tokio::spawn(async move {
        let result = async {
            let connection = house.broker.connection().await?;
            let broker = proxy(&connection).await?;
            broker.wait_call(call).await.map_err(Refusal::from)
        }
        .await;
        if let Err(refusal) = result {
            // The call may well go on without the broker; a document that a person looks at is not taken away.
            tracing::warn!(call, %refusal, "the end of a call is not known; its disposable stays until it is killed");
            return;
        }
        if let Err(refusal) = handle.ask(Request::Destroy).await {
            tracing::debug!(call, %refusal, "the disposable had ended before its call");
        }
    });
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
