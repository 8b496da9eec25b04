//! What takes a driver longer than a moment: starting, waiting for the agent, cleaning up, deleting. One at a time.

use std::sync::Arc;

use casemate_vm::VmKind;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::{Driver, Origin, clean_up};
use crate::{attach, machine::Machine, refusal::Refusal, warm};

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
                Ok(plan) => warm::start(house, plan).await.map(Box::new),
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
            clean_up(&house, &name).await;
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
