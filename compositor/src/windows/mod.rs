//! The model of all windows: who exists, where it lies, what is in front, what has the keyboard.
//!
//! Does no I/O, draws nothing and reads no clock. Guests reach it through the calls that answer with a
//! [`Violation`]; a person reaches it through [`press`](Windows::press) and its neighbours. What guests must be told collects in
//! [`Windows::take_outgoing`].
//!
//! A window's life:
//!
//! ```text
//! declare -> New -- commit --> Mapped -- unmap --> New
//!                               |  click elsewhere (popups with a grab)
//!                               v
//!                           Dismissed -- unmap --> New
//! any state -- destroy, or (popups) its parent's end --> gone
//! ```

mod drag;
mod focus;
mod frame;
mod guest;
mod hit;
mod place;
mod popup;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use casemate_vm::{Label, VmName};
use casemate_window_wire::{Position, ToGuest, WindowId};

pub(crate) use drag::Edges;
pub(crate) use frame::{Layer, close_button};
pub(crate) use hit::Hit;

use crate::{
    geometry::{Point, Rect, Size},
    theme,
    words::{Time, VmKey, WindowKey},
};

/// What a guest did that ends its window session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("a message for a window that does not exist")]
    UnknownWindow,
    #[error("more live windows than allowed")]
    TooManyWindows,
    #[error("kind or parent of a window changed")]
    KindChanged,
    #[error("a parent that cannot be one")]
    BadParent,
    #[error("popups nested too deep")]
    TooDeep,
    #[error("a position for a window that is no popup")]
    NotPopup,
    #[error("a popup shown without a position")]
    Unplaced,
    #[error("a serial that was never issued")]
    BadSerial,
}

/// What a window is, in terms of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A free-standing window, or a dialog of one.
    Toplevel { owner: Option<WindowId> },
    /// Hangs on another window.
    Popup { parent: WindowId, grab: bool },
}

/// How far a window has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Mapped,
    /// The person clicked elsewhere; waits for the guest to agree.
    Dismissed,
}

/// One window.
#[derive(Debug)]
struct Window {
    role: Role,
    phase: Phase,
    /// Sanitised.
    title: String,
    min: Size,
    max: Size,
    attention: bool,
    /// Of the newest commit.
    size: Size,
    /// Left top corner of the content; of a popup relative to its parent's content.
    origin: Point,
    /// A popup's wish, and the size that the solver left to it.
    placed: Option<(Position, Size)>,
    /// Where to return to from maximized.
    restore: Option<Rect>,
    /// Edges that stay where they are while the other side is dragged.
    anchor: Option<drag::Anchor>,
    configured: Configured,
}

/// What the guest was last told.
#[derive(Clone, Copy, Debug, Default)]
struct Configured {
    serial: u32,
    acked: u32,
    size: Size,
    activated: bool,
    /// Told after the guest has answered the last one.
    wanted: Option<Size>,
}

/// A VM as far as drawing needs it.
#[derive(Clone, Debug)]
pub(crate) struct VmLook {
    pub(crate) name: VmName,
    pub(crate) label: Label,
    /// Its windows do not answer.
    pub(crate) stuck: bool,
}

/// All windows of all VMs.
#[derive(Debug)]
pub(crate) struct Windows {
    output: Size,
    vms: BTreeMap<VmKey, VmLook>,
    windows: BTreeMap<WindowKey, Window>,
    /// Popups of an ended window whose own end the guest may still announce.
    ghosts: BTreeSet<WindowKey>,
    /// Mapped toplevels, back to front.
    stack: Vec<WindowKey>,
    /// Mapped popups in the order in which they came.
    popups: Vec<WindowKey>,
    focus: Option<WindowKey>,
    /// The VM that last got a key or a button, and when.
    last_input: Option<(VmKey, Time)>,
    drag: Option<drag::Drag>,
    next_serial: u32,
    cascade: i32,
    outgoing: Vec<(VmKey, ToGuest)>,
}

impl Windows {
    pub(crate) fn new(output: Size) -> Self {
        Self {
            output,
            vms: BTreeMap::new(),
            windows: BTreeMap::new(),
            ghosts: BTreeSet::new(),
            stack: Vec::new(),
            popups: Vec::new(),
            focus: None,
            last_input: None,
            drag: None,
            next_serial: 1,
            cascade: 0,
            outgoing: Vec::new(),
        }
    }

    pub(crate) fn output(&self) -> Size {
        self.output
    }

    /// The output without the trusted strip.
    pub(crate) fn work_area(&self) -> Rect {
        Rect {
            x: 0,
            y: theme::PANEL,
            w: self.output.w,
            h: (self.output.h - theme::PANEL).max(1),
        }
    }

    /// The output has another size now.
    pub(crate) fn set_output(&mut self, output: Size) {
        self.output = output;
        for key in self.stack.clone() {
            self.keep_on_screen(key);
        }
        for key in self.popups.clone() {
            self.solve_popup(key);
        }
    }

    pub(crate) fn add_vm(&mut self, key: VmKey, name: VmName, label: Label) {
        self.vms.insert(
            key,
            VmLook {
                name,
                label,
                stuck: false,
            },
        );
    }

    pub(crate) fn vms(&self) -> impl Iterator<Item = (VmKey, &VmLook)> {
        self.vms.iter().map(|(&key, look)| (key, look))
    }

    pub(crate) fn set_stuck(&mut self, key: VmKey, stuck: bool) -> bool {
        self.vms
            .get_mut(&key)
            .is_some_and(|look| std::mem::replace(&mut look.stuck, stuck) != stuck)
    }

    /// The VM has ended.
    pub(crate) fn remove_vm(&mut self, vm: VmKey) {
        self.clear_vm(vm);
        self.vms.remove(&vm);
        self.outgoing.retain(|(to, _)| *to != vm);
    }

    /// The VM's window session has ended: its windows go.
    pub(crate) fn clear_vm(&mut self, vm: VmKey) {
        let gone: Vec<WindowKey> = self.windows_of(vm).collect();
        for key in gone {
            self.forget(key);
        }
        self.ghosts.retain(|key| key.vm != vm);
        self.outgoing.retain(|(to, _)| *to != vm);
        self.refocus();
    }

    /// Messages for guests that have collected, in order.
    pub(crate) fn take_outgoing(&mut self) -> Vec<(VmKey, ToGuest)> {
        std::mem::take(&mut self.outgoing)
    }

    /// Whether a VM has any mapped toplevel, and whether one asks for attention.
    pub(crate) fn summary(&self, vm: VmKey) -> (usize, bool) {
        let mine = || self.stack.iter().filter(|key| key.vm == vm);
        let attention = mine().any(|key| self.windows.get(key).is_some_and(|w| w.attention));
        (mine().count(), attention)
    }

    fn windows_of(&self, vm: VmKey) -> impl Iterator<Item = WindowKey> + '_ {
        let first = WindowKey::new(vm, WindowId(0));
        let last = WindowKey::new(vm, WindowId(u32::MAX));
        self.windows.range(first..=last).map(|(&key, _)| key)
    }

    /// Takes a window out of every list. Does not look after focus.
    fn forget(&mut self, key: WindowKey) {
        self.hide(key);
        self.windows.remove(&key);
    }

    /// Takes a window off the screen.
    fn hide(&mut self, key: WindowKey) {
        self.stack.retain(|&other| other != key);
        self.popups.retain(|&other| other != key);
        if self.drag.as_ref().is_some_and(|drag| drag.key == key) {
            self.drag = None;
        }
        if let Some(window) = self.windows.get_mut(&key) {
            window.phase = Phase::New;
        }
    }

    fn serial(&mut self) -> u32 {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.checked_add(1).unwrap_or(1);
        serial
    }
}
