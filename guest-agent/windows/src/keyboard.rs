//! The keyboard: the host's keys and keymap, to the app's surface that has the focus. The host decides which
//! window; here only the popup in front of it may take its place.

use casemate_window_wire::WindowId;
use smithay::{
    backend::input::KeyState,
    input::keyboard::{
        FilterResult, KeyboardHandle, KeyboardTarget as _, Keycode, Layout, ModifiersState,
    },
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    utils::SERIAL_COUNTER,
};

use crate::{agent::Agent, canvas, window::Window};

/// xkb counts keys from here.
const XKB_OFFSET: u32 = 8;

impl Agent {
    /// The host's keymap replaces ours.
    pub(crate) fn keymap_changed(&mut self, text: String, repeat_delay: u32, repeat_rate: u32) {
        let Some(keyboard) = self.seat.get_keyboard() else {
            return;
        };
        if let Err(error) = keyboard.set_keymap_from_string(self, text) {
            tracing::warn!(%error, "the host's keymap is of no use; keeping the old one");
        }
        let number = |value: u32| i32::try_from(value).unwrap_or(0);
        keyboard.change_repeat_info(number(repeat_rate), number(repeat_delay));
    }

    /// The host gives the keyboard to a window, with keys already held.
    pub(crate) fn key_enter(&mut self, id: WindowId, held: &[u16], modifiers: [u32; 4]) {
        let Some(keyboard) = self.seat.get_keyboard() else {
            return;
        };
        if let Some(window) = self.windows.get_mut(id)
            && std::mem::take(&mut window.attention)
        {
            window.renamed = true;
        }
        self.release_keys(&keyboard);
        for code in held {
            let key = Keycode::from(u32::from(*code) + XKB_OFFSET);
            keyboard.input_intercept(self, key, KeyState::Pressed, |_, _, _| ());
        }
        self.adopt(&keyboard, modifiers);
        self.keyboard_at = Some(id);
        self.settle_keyboard();
    }

    /// A key of the focused window.
    pub(crate) fn key(&mut self, code: u16, pressed: bool, serial: u32, time_ms: u32) {
        let Some(keyboard) = self.seat.get_keyboard() else {
            return;
        };
        let ours = SERIAL_COUNTER.next_serial();
        self.serials.record(ours, serial, pressed);
        let key = Keycode::from(u32::from(code) + XKB_OFFSET);
        let state = if pressed {
            KeyState::Pressed
        } else {
            KeyState::Released
        };
        keyboard.input::<(), _>(self, key, state, ours, time_ms, |_, _, _| {
            FilterResult::Forward
        });
    }

    /// The host's modifiers changed. Ours follow from the keys, so mostly nothing is left to do.
    pub(crate) fn modifiers(&mut self, masks: [u32; 4]) {
        let Some(keyboard) = self.seat.get_keyboard() else {
            return;
        };
        if self.adopt(&keyboard, masks)
            && let Some(focus) = keyboard.current_focus()
        {
            let seat = self.seat.clone();
            let state = keyboard.modifier_state();
            focus.modifiers(&seat, self, state, SERIAL_COUNTER.next_serial());
        }
    }

    /// No window of this VM has the keyboard any more.
    pub(crate) fn release_keyboard(&mut self) {
        self.keyboard_at = None;
        if let Some(keyboard) = self.seat.get_keyboard() {
            keyboard.set_focus(self, None, SERIAL_COUNTER.next_serial());
            self.release_keys(&keyboard);
        }
    }

    fn release_keys(&mut self, keyboard: &KeyboardHandle<Self>) {
        for key in keyboard.pressed_keys() {
            keyboard.input_intercept(self, key, KeyState::Released, |_, _, _| ());
        }
    }

    /// Takes over the host's modifier masks; `true` when they differ from what the keys gave.
    fn adopt(&mut self, keyboard: &KeyboardHandle<Self>, masks: [u32; 4]) -> bool {
        let [depressed, latched, locked, group] = masks;
        let ours = keyboard.modifier_state().serialized;
        let same_mods = (ours.depressed, ours.latched, ours.locked) == (depressed, latched, locked);
        if !same_mods {
            keyboard.set_modifier_state(from_masks(depressed, locked));
        }
        let same_group = ours.layout_effective == group;
        if !same_group {
            keyboard.with_xkb_state(self, |mut context| context.set_layout(Layout(group)));
        }
        !same_mods || !same_group
    }

    /// Gives the keyboard to the surface that should have it now. Never to one without content: some apps crash
    /// when they have the keyboard before their window exists.
    pub(crate) fn settle_keyboard(&mut self) {
        let target = self.keyboard_at.and_then(|id| self.keyboard_target(id));
        if let Some(keyboard) = self.seat.get_keyboard()
            && keyboard.current_focus() != target
        {
            keyboard.set_focus(self, target, SERIAL_COUNTER.next_serial());
        }
    }

    /// The newest grabbing popup in front of `id`, else `id` itself.
    fn keyboard_target(&self, id: WindowId) -> Option<WlSurface> {
        let popups = self.windows.popups_of(id);
        let grabbing = popups.into_iter().rev().find(|popup| {
            let popup = self.windows.get(*popup).and_then(Window::popup);
            popup.is_some_and(|popup| {
                popup.grab && !popup.dismissed && canvas::has_buffer(popup.surface.wl_surface())
            })
        });
        let window = self.windows.get(grabbing.unwrap_or(id))?;
        let surface = window.surface();
        canvas::has_buffer(surface).then(|| surface.clone())
    }
}

/// The eight real modifiers of xkb, whose places in a mask are fixed.
fn from_masks(depressed: u32, locked: u32) -> ModifiersState {
    let held = |place: u32| depressed & (1 << place) != 0;
    let on = |place: u32| locked & (1 << place) != 0;
    ModifiersState {
        shift: held(0),
        caps_lock: on(1),
        ctrl: held(2),
        alt: held(3),
        num_lock: on(4),
        iso_level5_shift: held(5),
        logo: held(6),
        iso_level3_shift: held(7),
        ..ModifiersState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_by_place() {
        let shift_and_caps = from_masks(0b1, 0b10);
        assert!(shift_and_caps.shift && shift_and_caps.caps_lock);
        assert!(!shift_and_caps.ctrl && !shift_and_caps.num_lock);
        let altgr = from_masks(0x80, 0x10);
        assert!(altgr.iso_level3_shift && altgr.num_lock && !altgr.shift);
    }
}
