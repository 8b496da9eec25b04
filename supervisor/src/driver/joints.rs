//! Where a VM is joined to the broker and the compositor, and joined anew when one of them has forgotten it.

use std::{io, os::fd::OwnedFd, sync::Arc};

use casemate_link::PacketSocket;
use casemate_vmm_control::LinkKind;
use tokio::sync::watch;

use super::{Driver, handle::Mail};
use crate::{attach, run_record::RunRecord, services};

/// A new link to a service, with what belongs to it.
type NewLink = (RunRecord, PacketSocket, Option<OwnedFd>);
/// Where a VM is joined to a service.
pub(super) struct Joint {
    pub(super) changes: watch::Receiver<services::State>,
    /// Whether an attachment is being checked or made; two at a time would cut each other's link.
    pub(super) settling: bool,
    /// Whether the service changed meanwhile.
    pub(super) changed: bool,
}

impl Joint {
    pub(super) fn new(changes: watch::Receiver<services::State>) -> Self {
        Self {
            changes,
            settling: false,
            changed: false,
        }
    }
}

impl Driver {
    pub(super) fn joint(&mut self, kind: LinkKind) -> &mut Joint {
        match kind {
            LinkKind::Rpc => &mut self.broker,
            LinkKind::Windows => &mut self.compositor,
        }
    }

    /// Asks a service, in the background, whether it knows the VM; the answer comes as mail.
    pub(super) fn check_attachment(&mut self, kind: LinkKind) {
        if self.machine.is_none() {
            return;
        }
        let joint = self.joint(kind);
        if std::mem::replace(&mut joint.settling, true) {
            joint.changed = true;
            return;
        }
        let (house, name) = (Arc::clone(&self.house), self.name.clone());
        let mailbox = self.own_mailbox.clone();
        tokio::spawn(async move {
            let mail = match attach::is_attached(&house, kind, &name).await {
                Ok(true) => Mail::Settled(kind),
                Ok(false) => Mail::Attach(kind),
                Err(refusal) => {
                    // The next connection of the service is a change, and another check.
                    tracing::warn!(vm = %name, service = ?kind, %refusal, "not attached");
                    Mail::Settled(kind)
                }
            };
            let _ = mailbox.send(mail).await;
        });
    }

    /// Makes a new link and tells the service, in the background; the end of it comes as mail.
    pub(super) fn attach_anew(&mut self, kind: LinkKind) {
        let link = match self.new_link(kind) {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(vm = %self.name, service = ?kind, %error, "no new link");
                None
            }
        };
        let (house, name) = (Arc::clone(&self.house), self.name.clone());
        let mailbox = self.own_mailbox.clone();
        tokio::spawn(async move {
            if let Some((record, link, memory)) = link {
                match attach::attach(&house, kind, &name, &record, link, memory).await {
                    Ok(()) => tracing::info!(vm = %name, service = ?kind, "attached anew"),
                    Err(refusal) => {
                        tracing::warn!(vm = %name, service = ?kind, %refusal, "not attached");
                    }
                }
            }
            let _ = mailbox.send(Mail::Settled(kind)).await;
        });
    }

    /// What a service is told of a VM that runs already; nothing when it cannot be told.
    fn new_link(&mut self, kind: LinkKind) -> io::Result<Option<NewLink>> {
        let Some(machine) = &self.machine else {
            return Ok(None);
        };
        let memory = match (kind, &machine.window_memory) {
            (LinkKind::Rpc, _) => None,
            (LinkKind::Windows, Some(memory)) => Some(memory.try_clone()?),
            (LinkKind::Windows, None) => {
                "its windows were lost with the compositor; restart the VM to see them again"
                    .clone_into(&mut self.note);
                return Ok(None);
            }
        };
        let link = machine.new_link(kind)?;
        Ok(Some((machine.record.clone(), link, memory)))
    }
}
