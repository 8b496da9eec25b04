//! What takes a driver longer than a moment: starting, waiting for the agent, cleaning up, deleting. One at a time.

use std::{fs, io, sync::Arc};

use casemate_vm::VmKind;
use casemate_vmm_control::LinkKind;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::{Driver, Origin};
use crate::{attach, launch::launch, machine::Machine, refusal::Refusal};

/// What a job reports when it is done.
pub(super) enum Done {
    Launched(Result<Box<Machine>, Refusal>),
    Agent(Result<(), Refusal>),
    CleanedUp,
    Deleted(Result<(), Refusal>),
}

impl Driver {
    pub(super) fn launch_job(&self) -> BoxFuture<'static, Done> {
        let (house, name, origin) = (
            Arc::clone(&self.house),
            self.name.clone(),
            self.origin.clone(),
        );
        Box::pin(async move {
            let plan = match origin {
                Origin::Disposable(plan) => Ok(*plan),
                Origin::Defined => {
                    let house = Arc::clone(&house);
                    spawn_blocking(move || house.plan(&name))
                        .await
                        .unwrap_or_else(|error| Err(Refusal::failed(error.to_string())))
                }
            };
            Done::Launched(match plan {
                Ok(plan) => launch(house, plan).await.map(Box::new),
                Err(refusal) => Err(refusal),
            })
        })
    }

    pub(super) fn agent_job(&self) -> BoxFuture<'static, Done> {
        let (house, name) = (Arc::clone(&self.house), self.name.clone());
        let record = self.machine.as_ref().map(|machine| machine.record.clone());
        let limit = house.settings.start_timeout();
        Box::pin(async move {
            let reported = attach::wait_agent(&house, &name, limit).await;
            if let (Ok(()), Some(mut record)) = (&reported, record) {
                record.agent_reported = true;
                if let Err(refusal) = house.update_record(&name, record).await {
                    tracing::warn!(vm = %name, %refusal, "its record is behind");
                }
            }
            Done::Agent(reported)
        })
    }

    pub(super) fn clean_up_job(&self) -> BoxFuture<'static, Done> {
        let (house, name) = (Arc::clone(&self.house), self.name.clone());
        Box::pin(async move {
            attach::detach(&house, LinkKind::Rpc, &name).await;
            attach::detach(&house, LinkKind::Windows, &name).await;
            let cleaned = spawn_blocking(move || {
                let folder = house.paths.vm_runtime(&name);
                house.limiter.remove(&name);
                for result in [
                    absent(fs::remove_dir_all(folder)),
                    house.records.remove(&name),
                ] {
                    if let Err(error) = result {
                        tracing::error!(vm = %name, %error, "could not clean up");
                    }
                }
            });
            // A panic there is a bug that the panic hook has told already.
            let _ = cleaned.await;
            Done::CleanedUp
        })
    }

    pub(super) fn delete_job(&self) -> BoxFuture<'static, Done> {
        let (house, name, kind) = (Arc::clone(&self.house), self.name.clone(), self.kind());
        Box::pin(async move {
            let deleted = spawn_blocking(move || match kind {
                VmKind::App => house.delete(&name),
                VmKind::Disposable => house.remove_logs(&name),
            });
            Done::Deleted(
                deleted
                    .await
                    .unwrap_or_else(|error| Err(Refusal::failed(error.to_string()))),
            )
        })
    }
}

/// Nothing there is as good as removed.
fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
