//! Keys: to a shown question, to the host's own chords, or to the one window that has the focus.

use std::collections::BTreeSet;

use casemate_window_wire::ToGuest;

use super::{Desktop, Outside};
use crate::{
    input::keys,
    words::{Time, VmKey, WindowKey, millis},
};

/// Which keys are down, and who was told.
#[derive(Debug, Default)]
pub(super) struct Keys {
    down: BTreeSet<u16>,
    /// Keys whose press went to the focused VM.
    delivered: BTreeSet<u16>,
    /// Which window the guests believe to have the keyboard.
    target: Option<WindowKey>,
}

impl Keys {
    /// The VM's session is over: there is nobody to tell about a leave.
    pub(super) fn forget(&mut self, vm: VmKey) {
        if self.target.is_some_and(|key| key.vm == vm) {
            self.target = None;
            self.delivered.clear();
        }
    }

    pub(super) fn super_held(&self) -> bool {
        self.down.contains(&keys::LEFT_SUPER) || self.down.contains(&keys::RIGHT_SUPER)
    }

    fn switch_chord(&self) -> bool {
        self.down.contains(&keys::LEFT_CTRL) && self.down.contains(&keys::LEFT_ALT)
    }
}

impl Desktop {
    pub(super) fn key(&mut self, code: u16, pressed: bool, now: Time) {
        let fresh = if pressed {
            self.keys.down.insert(code)
        } else {
            self.keys.down.remove(&code)
        };
        if !fresh {
            // Repeats are made by the toolkits; a release of a key that was never down is no news.
            return;
        }
        let modifiers_changed = self.keyboard.update(code, pressed);
        if pressed {
            self.key_down(code, now);
        } else if self.keys.delivered.remove(&code) {
            self.deliver(code, false, now);
        }
        if modifiers_changed && let Some(target) = self.keys.target {
            let masks = self.keyboard.masks();
            self.tell(target.vm, &ToGuest::Modifiers { masks }, now);
        }
    }

    fn key_down(&mut self, code: u16, now: Time) {
        if self.keys.switch_chord()
            && let Some(terminal) = keys::function_key(code)
        {
            self.outside.push(Outside::SwitchTerminal(terminal));
            return;
        }
        if self.prompts.shown() {
            self.prompts.key(code, now);
            self.dirty = true;
            return;
        }
        if code == keys::LEFT_SUPER || code == keys::RIGHT_SUPER {
            return;
        }
        if self.keys.super_held() {
            self.chord(code);
            return;
        }
        if let Some(target) = self.keys.target {
            self.windows.note_input(target.vm, now);
            self.keys.delivered.insert(code);
            self.deliver(code, true, now);
        }
    }

    /// The host's chords, all with Super. Their keys never reach a VM, nor do their releases.
    fn chord(&mut self, code: u16) {
        let focused = self.windows.focused();
        match code {
            keys::TAB => self.windows.activate_next(None),
            keys::Q => {
                if let Some(key) = focused {
                    self.windows.close(key);
                }
            }
            keys::UP => {
                if let Some(key) = focused {
                    self.windows.toggle_maximized(key);
                }
            }
            _ => return,
        }
        self.dirty = true;
    }

    fn deliver(&mut self, code: u16, pressed: bool, now: Time) {
        let Some(target) = self.keys.target else {
            return;
        };
        let serial = self.serial();
        self.tell(
            target.vm,
            &ToGuest::Key {
                code,
                pressed,
                serial,
                time_ms: millis(now),
            },
            now,
        );
        if pressed {
            self.note_press(target.vm, serial, now);
        }
    }

    pub(super) fn note_press(&mut self, vm: VmKey, serial: u32, now: Time) {
        let result = self
            .session(vm)
            .map_or(Ok(()), |session| session.note_press(serial, now));
        if let Err(end) = result {
            self.end_session(vm, end, now);
        }
    }

    /// Tells guests who has the keyboard, if that changed. A question takes it from all.
    pub(super) fn sync_focus(&mut self) {
        let wanted = if self.prompts.shown() {
            None
        } else {
            self.windows.keyboard_target()
        };
        if wanted == self.keys.target {
            return;
        }
        let old = std::mem::replace(&mut self.keys.target, wanted);
        // Keys that are down now were pressed for another window: the new one hears of neither press nor release.
        self.keys.delivered.clear();
        let modifiers = self.keyboard.masks();
        // A session that cannot take these messages shows that again, and is ended, when it is flushed.
        if let Some(session) = old.and_then(|old| self.session(old.vm)) {
            let _ended = session.send(&ToGuest::KeyLeave);
        }
        if let Some(new) = wanted
            && let Some(session) = self.session(new.vm)
        {
            let _ended = session.send(&ToGuest::KeyEnter {
                id: new.id,
                held: Vec::new(),
                modifiers,
            });
        }
        self.dirty = true;
    }

    /// The seat is away: nothing counts as pressed, and a question must be read again.
    pub(super) fn input_lost(&mut self, now: Time) {
        self.keyboard.release_all();
        self.keys.down.clear();
        for code in std::mem::take(&mut self.keys.delivered) {
            self.deliver(code, false, now);
        }
        if let Some(target) = self.keys.target {
            let masks = self.keyboard.masks();
            self.tell(target.vm, &ToGuest::Modifiers { masks }, now);
        }
        self.release_buttons(now);
        self.prompts.interrupt(now);
        self.dirty = true;
    }
}
