//! A driver as the rest of the house sees it: a mailbox and a view.

use casemate_vm::{VmName, VmSpec, VmState};
use casemate_vmm_control::LinkKind;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{launch::Plan, life::Request, refusal::Refusal};

/// What others see of a VM.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) state: VmState,
    pub(crate) problem: String,
    /// What it runs with, absent while nothing of it runs.
    pub(crate) running: Option<RunningView>,
}

/// What others see of a VM that runs.
#[derive(Clone, Debug)]
pub(crate) struct RunningView {
    pub(crate) spec: VmSpec,
    pub(crate) id: u32,
    pub(crate) revision: u32,
    pub(crate) pid: u32,
    pub(crate) uuid: String,
    /// Whether it may record.
    pub(crate) recording: bool,
}

/// Where a VM's plan comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Its definition file, read at each start.
    Defined,
    /// Made once, for one run.
    Disposable(Box<Plan>),
}

/// A driver as the rest of the house holds it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(super) name: VmName,
    pub(crate) origin: Origin,
    pub(super) mailbox: mpsc::Sender<Mail>,
    pub(super) view: watch::Receiver<View>,
}

#[derive(Debug)]
pub(super) enum Mail {
    Request(Request, oneshot::Sender<Result<(), Refusal>>),
    /// The service of this kind does not know the VM.
    Attach(LinkKind),
    /// The service of this kind knows the VM, or could not be told.
    Settled(LinkKind),
    /// Its vCPUs shall stand still; answered when they do, or when nothing runs.
    Hold(oneshot::Sender<Result<(), Refusal>>),
    /// Its vCPUs may go on.
    Release,
    /// A disposable ends with this call of the broker.
    EndsWithCall(u64),
    /// It may record, or may not any more; answered when that holds.
    Recording(bool, oneshot::Sender<Result<(), Refusal>>),
}

impl Handle {
    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, request: Request) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let gone = || Refusal::no_vm(self.name.as_str());
        self.mailbox
            .send(Mail::Request(request, answer))
            .await
            .map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    pub(crate) async fn ends_with_call(&self, call: u64) {
        // A driver that has ended needs no record of it.
        let _ = self.mailbox.send(Mail::EndsWithCall(call)).await;
    }

    /// Lets it record, or takes that back; returns when that holds.
    pub(crate) async fn recording(&self, granted: bool) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let gone = || Refusal::no_vm(self.name.as_str());
        self.mailbox
            .send(Mail::Recording(granted, answer))
            .await
            .map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Makes the VM stand still until [`Handle::release`]; returns when it does, or when nothing of it runs.
    pub(crate) async fn hold(&self) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        if self.mailbox.send(Mail::Hold(answer)).await.is_err() {
            return Ok(());
        }
        // Dropped with a driver that ends, and then nothing runs.
        answered.await.unwrap_or(Ok(()))
    }

    /// Lets the VM go on.
    pub(crate) async fn release(&self) {
        // A driver that has ended has nothing that stands still.
        let _ = self.mailbox.send(Mail::Release).await;
    }

    /// Whether its agent has reported and it has not ended.
    pub(crate) fn is_running(&self) -> bool {
        self.view.borrow().state == VmState::Running
    }

    pub(crate) fn view(&self) -> View {
        self.view.borrow().clone()
    }
}
