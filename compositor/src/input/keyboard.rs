//! The host's one xkb state. VMs get its keymap once, and codes and modifiers as they change.

use smithay::input::keyboard::xkb;

/// The keymap could not be made.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "no keymap could be compiled; install xkb-data, or correct XKB_DEFAULT_LAYOUT in the environment"
)]
pub(crate) struct KeymapError;

/// xkb numbers keys from 8.
const XKB_OFFSET: u32 = 8;

/// Keymap and state.
pub(crate) struct Keyboard {
    keymap: xkb::Keymap,
    state: xkb::State,
    text: String,
}

impl std::fmt::Debug for Keyboard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyboard")
            .field("masks", &self.masks())
            .finish_non_exhaustive()
    }
}

impl Keyboard {
    /// The keymap that the environment names (`XKB_DEFAULT_LAYOUT` and its siblings), else the system's default.
    pub(crate) fn new() -> Result<Self, KeymapError> {
        let context = xkb::Context::new(xkb::CONTEXT_NO_FLAGS);
        let keymap = xkb::Keymap::new_from_names(
            &context,
            "",
            "",
            "",
            "",
            None,
            xkb::KEYMAP_COMPILE_NO_FLAGS,
        )
        .ok_or(KeymapError)?;
        Ok(Self {
            text: keymap.get_as_string(xkb::KEYMAP_FORMAT_TEXT_V1),
            state: xkb::State::new(&keymap),
            keymap,
        })
    }

    /// The keymap as xkb text, for guests.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Takes a key into account; answers whether modifiers changed.
    pub(crate) fn update(&mut self, code: u16, pressed: bool) -> bool {
        let direction = if pressed {
            xkb::KeyDirection::Down
        } else {
            xkb::KeyDirection::Up
        };
        self.state
            .update_key((u32::from(code) + XKB_OFFSET).into(), direction)
            != 0
    }

    /// Modifier masks: depressed, latched, locked, and the layout group.
    pub(crate) fn masks(&self) -> [u32; 4] {
        [
            self.state.serialize_mods(xkb::STATE_MODS_DEPRESSED),
            self.state.serialize_mods(xkb::STATE_MODS_LATCHED),
            self.state.serialize_mods(xkb::STATE_MODS_LOCKED),
            self.state.serialize_layout(xkb::STATE_LAYOUT_EFFECTIVE),
        ]
    }

    /// Nothing is pressed any more; locks stay.
    pub(crate) fn release_all(&mut self) {
        let [_, _, locked, group] = self.masks();
        self.state = xkb::State::new(&self.keymap);
        self.state.update_mask(0, 0, locked, 0, 0, group);
    }
}
