//! Linux input codes that the host itself understands (`linux/input-event-codes.h`).

pub(crate) const ESC: u16 = 1;
pub(crate) const TAB: u16 = 15;
pub(crate) const Q: u16 = 16;
pub(crate) const ENTER: u16 = 28;
pub(crate) const LEFT_CTRL: u16 = 29;
pub(crate) const LEFT_ALT: u16 = 56;
pub(crate) const SPACE: u16 = 57;
pub(crate) const F1: u16 = 59;
pub(crate) const F10: u16 = 68;
pub(crate) const F11: u16 = 87;
pub(crate) const F12: u16 = 88;
pub(crate) const KEYPAD_ENTER: u16 = 96;
pub(crate) const UP: u16 = 103;
pub(crate) const LEFT: u16 = 105;
pub(crate) const RIGHT: u16 = 106;
pub(crate) const DOWN: u16 = 108;
pub(crate) const LEFT_SUPER: u16 = 125;
pub(crate) const RIGHT_SUPER: u16 = 126;

pub(crate) const BUTTON_LEFT: u16 = 0x110;
pub(crate) const BUTTON_RIGHT: u16 = 0x111;

/// The number of a function key.
pub(crate) fn function_key(code: u16) -> Option<i32> {
    match code {
        F1..=F10 => Some(i32::from(code - F1) + 1),
        F11 => Some(11),
        F12 => Some(12),
        _ => None,
    }
}
