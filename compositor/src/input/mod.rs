//! The seat: what backends report, the host's one keyboard state, and which physical keys are down.

mod keyboard;
pub(crate) mod keys;

pub(crate) use keyboard::Keyboard;

/// What a backend reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum InputEvent {
    /// Linux input code of a key.
    Key { code: u16, pressed: bool },
    /// The pointer is at this place of the output, in pixels.
    MotionTo { x: f64, y: f64 },
    /// The pointer moved by this much.
    MotionBy { dx: f64, dy: f64 },
    /// Linux input code of a button.
    Button { code: u16, pressed: bool },
    /// Scrolling: pixels, and wheel clicks in 1/120.
    Axis {
        x: f64,
        y: f64,
        x120: i32,
        y120: i32,
    },
    /// Input devices went away (seat paused): nothing counts as pressed any more.
    Lost,
}
