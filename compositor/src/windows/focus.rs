//! What has the keyboard. Between VMs it moves only by a person's act; a guest has no message for it.

use std::time::Duration;

use casemate_window_wire::ToGuest;

use super::{Phase, Role, Window, Windows};
use crate::words::{Time, VmKey, WindowKey};

/// How long after an input event of the focused VM its new toplevel counts as wanted by the person.
const OWN_ACT: Duration = Duration::from_secs(1);

impl Windows {
    /// The toplevel that has the focus.
    pub(crate) fn focused(&self) -> Option<WindowKey> {
        self.focus
    }

    /// The window that gets keys: the focused toplevel, or its foremost popup with a grab.
    pub(crate) fn keyboard_target(&self) -> Option<WindowKey> {
        let focus = self.focus?;
        let popup = self.popups.iter().rev().copied().find(|&key| {
            self.toplevel_of(key) == Some(focus)
                && matches!(
                    self.windows.get(&key),
                    Some(Window {
                        role: Role::Popup { grab: true, .. },
                        phase: Phase::Mapped,
                        ..
                    })
                )
        });
        Some(popup.unwrap_or(focus))
    }

    /// A key or a button was given to a VM.
    pub(crate) fn note_input(&mut self, vm: VmKey, now: Time) {
        self.last_input = Some((vm, now));
    }

    /// Puts a newly mapped toplevel into the stack: in front and focused if a person can have wanted that.
    pub(super) fn insert_toplevel(&mut self, key: WindowKey, now: Time) {
        let recent = self
            .last_input
            .filter(|(_, at)| now.saturating_sub(*at) < OWN_ACT)
            .map(|(vm, _)| vm);
        let wanted = match self.focus {
            None => recent.is_none_or(|vm| vm == key.vm),
            Some(focus) => focus.vm == key.vm && recent == Some(key.vm),
        };
        if wanted {
            self.stack.push(key);
            self.set_focus(Some(key));
            return;
        }
        // Behind the focused window: nothing slides under a person's hands.
        let behind = self
            .focus
            .and_then(|focus| self.stack.iter().position(|&other| other == focus))
            .unwrap_or(self.stack.len());
        self.stack.insert(behind, key);
        if let Some(window) = self.windows.get_mut(&key) {
            window.attention = true;
        }
    }

    /// A person's act: brings a toplevel with its dialogs to the front and focuses it.
    pub(crate) fn activate(&mut self, key: WindowKey) {
        let Some(key) = self.toplevel_of(key).filter(|key| self.stack.contains(key)) else {
            return;
        };
        self.stack.retain(|&other| other != key);
        self.stack.push(key);
        let dialogs: Vec<WindowKey> = self
            .stack
            .iter()
            .copied()
            .filter(|other| {
                other.vm == key.vm
                    && matches!(
                        self.windows.get(other),
                        Some(Window { role: Role::Toplevel { owner: Some(owner) }, .. }) if *owner == key.id
                    )
            })
            .collect();
        for dialog in dialogs {
            self.stack.retain(|&other| other != dialog);
            self.stack.push(dialog);
        }
        self.set_focus(Some(key));
    }

    /// A wish of a guest, with the serial of a person's press already checked: only within the focused VM.
    pub(crate) fn request_activation(&mut self, key: WindowKey) {
        if self.focus.is_some_and(|focus| focus.vm == key.vm) {
            self.activate(key);
        } else if let Some(window) = self.windows.get_mut(&key) {
            window.attention = true;
        }
    }

    /// A person's act: a button went down at a point of the content or frame of `target`.
    pub(crate) fn press(&mut self, target: Option<WindowKey>) {
        self.dismiss_popups(target);
        match target {
            Some(key) => self.activate(key),
            None => self.set_focus(None),
        }
    }

    /// A person's act: the next toplevel in a round, or the next one of a VM.
    pub(crate) fn activate_next(&mut self, vm: Option<VmKey>) {
        let candidates: Vec<WindowKey> = self
            .stack
            .iter()
            .copied()
            .filter(|key| vm.is_none_or(|vm| vm == key.vm))
            .collect();
        // The one furthest back: repeated, this walks through all. A VM that is not in front comes with its front window.
        let in_front = vm.is_none() || self.focus.map(|focus| focus.vm) == vm;
        let next = if in_front {
            candidates.first()
        } else {
            candidates.last()
        };
        if let Some(&key) = next {
            self.dismiss_popups(Some(key));
            self.activate(key);
        }
    }

    /// A person's act: asks a window to close.
    pub(crate) fn close(&mut self, key: WindowKey) {
        if self.windows.contains_key(&key) {
            self.outgoing.push((key.vm, ToGuest::Close { id: key.id }));
        }
    }

    /// After windows have gone: if the focused one was among them, the front window of the same VM takes over.
    pub(super) fn refocus(&mut self) {
        if self.focus.is_some_and(|focus| self.stack.contains(&focus)) {
            return;
        }
        let was = self.focus.map(|focus| focus.vm);
        let next = self
            .stack
            .iter()
            .rev()
            .copied()
            .find(|key| was == Some(key.vm));
        match next {
            Some(key) => self.activate(key),
            None => self.set_focus(None),
        }
    }

    fn set_focus(&mut self, focus: Option<WindowKey>) {
        let old = std::mem::replace(&mut self.focus, focus);
        if old == focus {
            return;
        }
        if let Some(key) = focus
            && let Some(window) = self.windows.get_mut(&key)
        {
            window.attention = false;
        }
        for key in [old, focus].into_iter().flatten() {
            if let Some(window) = self.windows.get(&key) {
                // The size that was asked for last still holds; a client that chose its own keeps choosing.
                let size = window.configured.wanted.unwrap_or(window.configured.size);
                self.configure(key, size);
            }
        }
    }
}
