//! Telling the broker and the compositor which VMs there are.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use casemate_link::PacketSocket;
use casemate_vm::VmName;
use casemate_vmm_control::LinkKind;
use tokio::time::timeout;

use crate::{
    house::House,
    refusal::{Kind, Refusal},
    run_record::RunRecord,
    services::Service,
};

/// How long a service may take for one short answer.
const ANSWER: Duration = Duration::from_secs(20);

/// The service at the other end of a link of this kind.
pub(crate) fn service(house: &House, kind: LinkKind) -> &Service {
    match kind {
        LinkKind::Rpc => &house.broker,
        LinkKind::Windows => &house.compositor,
    }
}

/// Hands a service its end of a VM's link, starting the service when it does not run.
pub(crate) async fn attach(
    house: &House,
    kind: LinkKind,
    name: &VmName,
    record: &RunRecord,
    link: PacketSocket,
    window_memory: Option<OwnedFd>,
) -> Result<(), Refusal> {
    let connection = service(house, kind).connection().await?;
    let link = zbus::zvariant::OwnedFd::from(OwnedFd::from(link));
    within(async {
        match (kind, window_memory) {
            (LinkKind::Rpc, _) => {
                let broker = casemate_api::broker(&connection).await?;
                broker.attach_vm(name.as_str(), record.id.0, link).await
            }
            (LinkKind::Windows, Some(memory)) => {
                let compositor = casemate_api::compositor(&connection).await?;
                let label = record.spec.label.as_str();
                compositor
                    .attach_vm(name.as_str(), label, link, memory.into())
                    .await
            }
            (LinkKind::Windows, None) => Err(casemate_api::Error::Failed(
                "its window memory was lost with the supervisor that started it".to_owned(),
            )),
        }
    })
    .await
}

/// Whether the service that is connected now knows the VM.
pub(crate) async fn is_attached(
    house: &House,
    kind: LinkKind,
    name: &VmName,
) -> Result<bool, Refusal> {
    let connection = service(house, kind).connection().await?;
    let attached = within(async {
        match kind {
            LinkKind::Rpc => casemate_api::broker(&connection).await?.attached().await,
            LinkKind::Windows => {
                casemate_api::compositor(&connection)
                    .await?
                    .attached()
                    .await
            }
        }
    })
    .await?;
    Ok(attached.iter().any(|attached| attached == name.as_str()))
}

/// Tells a service that a VM has ended. A service that does not run has forgotten it already.
pub(crate) async fn detach(house: &House, kind: LinkKind, name: &VmName) {
    let Some(connection) = service(house, kind).current() else {
        return;
    };
    let result = within(async {
        match kind {
            LinkKind::Rpc => {
                casemate_api::broker(&connection)
                    .await?
                    .detach_vm(name.as_str())
                    .await
            }
            LinkKind::Windows => {
                casemate_api::compositor(&connection)
                    .await?
                    .detach_vm(name.as_str())
                    .await
            }
        }
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(vm = %name, service = ?kind, %error, "was not detached");
    }
}

/// Waits for the agent's report, across restarts of the broker.
pub(crate) async fn wait_agent(
    house: &House,
    name: &VmName,
    limit: Duration,
) -> Result<(), Refusal> {
    let wait = async {
        loop {
            let connection = house.broker.connection().await?;
            let broker = casemate_api::broker(&connection)
                .await
                .map_err(casemate_api::Error::from)?;
            let error = match broker.wait_agent(name.as_str()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tracing::debug!(vm = %name, %error, "still waiting for the agent");
            // Not attached yet after a restart of the broker, or the broker has gone: the driver attaches it anew.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(limit, wait).await.unwrap_or_else(|_| {
        Err(Refusal::new(
            Kind::TimedOut,
            format!(
                "the agent of '{name}' did not report within {} seconds; see `casemate logs {name}`, or raise \
                 timeout-s below [start] in casemate.toml if this machine is slow",
                limit.as_secs()
            ),
        ))
    })
}

/// A copy of a descriptor, for handing over.
pub(crate) fn copy(file: BorrowedFd<'_>) -> Result<OwnedFd, Refusal> {
    file.try_clone_to_owned()
        .map_err(|error| Refusal::io("no descriptor", &error))
}

async fn within<T>(
    answer: impl Future<Output = Result<T, casemate_api::Error>>,
) -> Result<T, Refusal> {
    match timeout(ANSWER, answer).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Refusal::new(
            Kind::TimedOut,
            "a service did not answer within 20 seconds",
        )),
    }
}
