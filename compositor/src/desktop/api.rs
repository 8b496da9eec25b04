//! What the bus asks of the desktop.

use std::os::fd::OwnedFd;

use casemate_api::{Answer, Notice, WindowInfo};
use casemate_link::PacketSocket;
use casemate_vm::{Label, VmName};
use tokio::sync::oneshot;

use super::{Desktop, Outside, Purpose};
use crate::{
    prompt::{Question, TooMany},
    scene::Frame,
    session::{Attachment, MapError},
    words::{Time, VmKey},
};

/// Why a VM cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("'{0}' is attached already; detach it first")]
    Twice(VmName),
    #[error("cannot use the window memory of '{0}'")]
    Memory(VmName, #[source] MapError),
    #[error("cannot watch the link of '{0}'")]
    Link(VmName, #[source] std::io::Error),
}

impl Desktop {
    /// A VM has started. One of the same name whose vmm has closed its link makes room.
    pub(crate) fn attach(
        &mut self,
        name: VmName,
        label: Label,
        link: OwnedFd,
        memory: OwnedFd,
        now: Time,
    ) -> Result<VmKey, AttachError> {
        if let Some(old) = self.find(&name) {
            let alive = self
                .attachments
                .get_mut(&old)
                .is_some_and(Attachment::link_alive);
            if alive {
                return Err(AttachError::Twice(name));
            }
            self.remove(old);
        }
        let attachment = Attachment::new(name.clone(), PacketSocket::from(link), memory, now)
            .map_err(|error| AttachError::Memory(name.clone(), error))?;
        let vm = VmKey(self.next_vm);
        self.next_vm += 1;
        if let Some(fd) = attachment.watch_link() {
            let fd = fd.map_err(|error| AttachError::Link(name.clone(), error))?;
            self.outside.push(Outside::Watch {
                vm,
                purpose: Purpose::Link,
                fd,
            });
        }
        tracing::info!(vm = %name, %label, "attached");
        self.windows.add_vm(vm, name, label);
        self.attachments.insert(vm, attachment);
        self.dirty = true;
        Ok(vm)
    }

    /// A VM has ended; answers whether it was attached.
    pub(crate) fn detach(&mut self, name: &VmName) -> bool {
        let Some(vm) = self.find(name) else {
            return false;
        };
        tracing::info!(vm = %name, "detached");
        self.remove(vm);
        true
    }

    fn find(&self, name: &VmName) -> Option<VmKey> {
        self.attachments
            .iter()
            .find(|(_, attachment)| attachment.name == *name)
            .map(|(&vm, _)| vm)
    }

    fn remove(&mut self, vm: VmKey) {
        self.attachments.remove(&vm);
        self.windows.remove_vm(vm);
        self.contents.retain(|key, _| key.vm != vm);
        self.ready.remove(&vm);
        self.throttled.remove(&vm);
        self.keys.forget(vm);
        self.pointer.forget(vm);
        for purpose in [Purpose::Link, Purpose::Stream] {
            self.outside.push(Outside::Unwatch { vm, purpose });
        }
        self.dirty = true;
    }

    /// Names of the attached VMs.
    pub(crate) fn attached(&self) -> Vec<String> {
        self.attachments
            .values()
            .map(|attachment| attachment.name.as_str().to_owned())
            .collect()
    }

    /// Puts a question to the person.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        reply: oneshot::Sender<Answer>,
        now: Time,
    ) -> Result<(), TooMany> {
        let first = !self.prompts.shown();
        self.prompts.ask(question, reply, now)?;
        if first {
            self.take_pointer(now);
        }
        self.sync_focus();
        self.dirty = true;
        Ok(())
    }

    /// Shows a notice.
    pub(crate) fn notify(&mut self, notice: &Notice, now: Time) {
        self.notices.add(notice, now);
        self.dirty = true;
    }

    /// Every visible window, front first.
    pub(crate) fn list(&self) -> Vec<WindowInfo> {
        let focused = self.windows.keyboard_target();
        self.windows
            .layers()
            .into_iter()
            .map(|layer| {
                let (width, height) = layer.content.size().to_wire();
                WindowInfo {
                    vm: layer.vm_name.to_owned(),
                    id: layer.key.id.0,
                    kind: if layer.popup { "popup" } else { "toplevel" }.to_owned(),
                    title: layer.title.to_owned(),
                    x: layer.content.x,
                    y: layer.content.y,
                    width,
                    height,
                    focused: layer.focused || focused == Some(layer.key),
                }
            })
            .collect()
    }

    /// What the screen shows, or will show next.
    pub(crate) fn frame(&self) -> &Frame {
        self.renderer.frame()
    }
}
