//! The pointer: over contents it belongs to their VM, over everything else to the host.

use std::{collections::BTreeSet, time::Duration};

use casemate_window_wire::{CursorShape, ToGuest};

use super::Desktop;
use crate::{
    geometry::{Point, Size},
    input::keys,
    windows::{Edges, Hit},
    words::{Time, VmKey, WindowKey, millis},
};

/// Clicks this soon after another VM's window has appeared under a resting pointer were meant for what was there.
const SETTLE: Duration = Duration::from_millis(500);

/// Two presses of a title bar within this time are a double click.
const DOUBLE_CLICK: Duration = Duration::from_millis(400);

/// Where the pointer is and whom it belongs to.
#[derive(Debug)]
pub(super) struct PointerState {
    x: f64,
    y: f64,
    seen: bool,
    /// Buttons whose press went to `owner`.
    delivered: BTreeSet<u16>,
    /// The window that got a press and so gets everything until the last release.
    owner: Option<WindowKey>,
    /// The window that believes the pointer to be over it.
    hover: Option<WindowKey>,
    /// The VM under the pointer when it last moved, or when the person last acted.
    settled_on: Option<VmKey>,
    ignore_until: Time,
    /// Left press on a title bar, for double clicks.
    last_title: Option<(WindowKey, Time)>,
    shape: CursorShape,
}

impl Default for PointerState {
    fn default() -> Self {
        Self {
            x: 0.0,
            y: 0.0,
            seen: false,
            delivered: BTreeSet::new(),
            owner: None,
            hover: None,
            settled_on: None,
            ignore_until: Time::ZERO,
            last_title: None,
            shape: CursorShape::Default,
        }
    }
}

impl PointerState {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the place is kept within the output"
    )]
    pub(super) fn at(&self) -> Point {
        Point::new(self.x as i32, self.y as i32)
    }

    pub(super) fn seen(&self) -> bool {
        self.seen
    }

    pub(super) fn shape(&self) -> CursorShape {
        self.shape
    }

    /// Whether a button is down whose press went to this window.
    pub(super) fn holds(&self, key: WindowKey) -> bool {
        self.owner == Some(key)
    }

    /// The host takes over a drag that began in a window: the guest gets no more of it.
    pub(super) fn hand_over(&mut self) {
        self.owner = None;
        self.delivered.clear();
    }

    pub(super) fn forget(&mut self, vm: VmKey) {
        if self.owner.is_some_and(|key| key.vm == vm) {
            self.hand_over();
        }
        if self.hover.is_some_and(|key| key.vm == vm) {
            self.hover = None;
        }
    }

    fn move_to(&mut self, x: f64, y: f64, output: Size) {
        let clamp = |value: f64, limit: i32| {
            if value.is_finite() {
                value.clamp(0.0, f64::from((limit - 1).max(0)))
            } else {
                0.0
            }
        };
        self.x = clamp(x, output.w);
        self.y = clamp(y, output.h);
        self.seen = true;
    }
}

impl Desktop {
    pub(super) fn pointer_to(&mut self, x: f64, y: f64, now: Time) {
        self.pointer.move_to(x, y, self.windows.output());
        self.pointer_moved(now);
    }

    pub(super) fn pointer_by(&mut self, dx: f64, dy: f64, now: Time) {
        let (x, y) = (self.pointer.x + dx, self.pointer.y + dy);
        self.pointer_to(x, y, now);
    }

    fn pointer_moved(&mut self, now: Time) {
        self.dirty = true;
        if self.prompts.shown() {
            return;
        }
        let at = self.pointer.at();
        if self.windows.dragging() {
            self.windows.drag_to(at);
            return;
        }
        if let Some(owner) = self.pointer.owner {
            self.send_motion(owner, now);
            return;
        }
        let hit = self.windows.hit(at);
        self.pointer.settled_on = hit.window().map(|key| key.vm);
        self.hover(hit, now);
    }

    /// After windows changed by themselves: a click that is already on its way must not reach a newcomer.
    pub(super) fn refresh_hover(&mut self, now: Time) {
        if !self.pointer.seen
            || self.prompts.shown()
            || self.windows.dragging()
            || self.pointer.owner.is_some()
        {
            return;
        }
        let hit = self.windows.hit(self.pointer.at());
        let vm = hit.window().map(|key| key.vm);
        if vm != self.pointer.settled_on {
            self.pointer.settled_on = vm;
            if vm.is_some() {
                self.pointer.ignore_until = now + SETTLE;
            }
        }
        self.hover(hit, now);
    }

    /// Tells guests whose content the pointer is over.
    fn hover(&mut self, hit: Hit, now: Time) {
        let over = match hit {
            Hit::Content { key, .. } => Some(key),
            _ => None,
        };
        let old = self.pointer.hover;
        if let Some(old) = old
            && over.map(|key| key.vm) != Some(old.vm)
        {
            self.tell(old.vm, &ToGuest::PointerLeave, now);
        }
        self.pointer.hover = over;
        if let Some(key) = over {
            self.send_motion(key, now);
        }
        self.pointer.shape = self.shape_over(hit);
    }

    fn shape_over(&mut self, hit: Hit) -> CursorShape {
        match hit {
            Hit::Content { key, .. } => self
                .session(key.vm)
                .map_or(CursorShape::Default, |session| session.cursor()),
            Hit::Border(_, edges) => edge_shape(edges),
            _ => CursorShape::Default,
        }
    }

    fn send_motion(&mut self, key: WindowKey, now: Time) {
        let Some(content) = self.windows.content(key) else {
            return;
        };
        let fixed = |value: f64, origin: i32| {
            let relative = (value - f64::from(origin)) * 256.0;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "bounded by output and window coordinates; the cast saturates"
            )]
            let fixed = relative as i32;
            fixed
        };
        let message = ToGuest::PointerMotion {
            id: key.id,
            x: fixed(self.pointer.x, content.x),
            y: fixed(self.pointer.y, content.y),
            time_ms: millis(now),
        };
        self.tell(key.vm, &message, now);
    }

    pub(super) fn button(&mut self, code: u16, pressed: bool, now: Time) {
        self.pointer.seen = true;
        if pressed {
            self.button_down(code, now);
        } else {
            self.button_up(code, now);
        }
        self.dirty = true;
    }

    fn button_down(&mut self, code: u16, now: Time) {
        let at = self.pointer.at();
        if self.prompts.shown() {
            if code == keys::BUTTON_LEFT {
                self.prompts.click(at, now);
            }
            return;
        }
        if self.windows.dragging() {
            return;
        }
        if let Some(owner) = self.pointer.owner {
            self.send_button(owner, code, true, now);
            return;
        }
        if now < self.pointer.ignore_until {
            return;
        }
        let hit = self.windows.hit(at);
        if self.keys.super_held()
            && let Some(key) = hit.window()
        {
            self.windows.press(Some(key));
            match code {
                keys::BUTTON_LEFT => self.windows.begin_move(key, at),
                keys::BUTTON_RIGHT => self.windows.begin_resize(key, None, at),
                _ => {}
            }
            return;
        }
        match hit {
            Hit::Content { key, .. } => {
                self.windows.press(Some(key));
                self.windows.note_input(key.vm, now);
                // The newcomer of this moment is the person's own doing.
                self.pointer.settled_on = Some(key.vm);
                self.sync_focus();
                self.hover(hit, now);
                self.send_button(key, code, true, now);
            }
            Hit::Panel => {
                let vm = self.scene.panel.vm_at(at);
                match vm {
                    Some(vm) => self.windows.activate_next(Some(vm)),
                    None => self.windows.dismiss_all(),
                }
            }
            Hit::Desktop => self.windows.press(None),
            Hit::Title(key) => {
                self.windows.press(Some(key));
                self.title_pressed(key, code, at, now);
            }
            Hit::Close(key) => {
                self.windows.press(Some(key));
                if code == keys::BUTTON_LEFT {
                    self.windows.close(key);
                }
            }
            Hit::Border(key, edges) => {
                self.windows.press(Some(key));
                if code == keys::BUTTON_LEFT {
                    self.windows.begin_resize(key, Some(edges), at);
                }
            }
        }
        self.pointer.settled_on = self.windows.hit(at).window().map(|key| key.vm);
    }

    fn title_pressed(&mut self, key: WindowKey, code: u16, at: Point, now: Time) {
        if code != keys::BUTTON_LEFT {
            return;
        }
        let double = self
            .pointer
            .last_title
            .take()
            .is_some_and(|(last, when)| last == key && now.saturating_sub(when) < DOUBLE_CLICK);
        if double {
            self.windows.toggle_maximized(key);
        } else {
            self.pointer.last_title = Some((key, now));
            self.windows.begin_move(key, at);
        }
    }

    fn button_up(&mut self, code: u16, now: Time) {
        if code == keys::BUTTON_LEFT || code == keys::BUTTON_RIGHT {
            self.windows.end_drag();
        }
        if self.pointer.delivered.contains(&code)
            && let Some(owner) = self.pointer.owner
        {
            self.send_button(owner, code, false, now);
        }
        if self.pointer.owner.is_none() && !self.prompts.shown() {
            let hit = self.windows.hit(self.pointer.at());
            self.hover(hit, now);
        }
    }

    fn send_button(&mut self, key: WindowKey, code: u16, pressed: bool, now: Time) {
        if pressed {
            self.pointer.delivered.insert(code);
            self.pointer.owner = Some(key);
        } else {
            self.pointer.delivered.remove(&code);
            if self.pointer.delivered.is_empty() {
                self.pointer.owner = None;
            }
        }
        let serial = self.serial();
        self.tell(
            key.vm,
            &ToGuest::PointerButton {
                code,
                pressed,
                serial,
                time_ms: millis(now),
            },
            now,
        );
        if pressed {
            self.note_press(key.vm, serial, now);
        }
    }

    /// No button counts as down any more. The guest gets the releases of the presses it got.
    pub(super) fn release_buttons(&mut self, now: Time) {
        self.windows.end_drag();
        if let Some(owner) = self.pointer.owner {
            for code in self.pointer.delivered.clone() {
                self.send_button(owner, code, false, now);
            }
        }
        self.pointer.hand_over();
    }

    /// A question is shown: the pointer is the host's.
    pub(super) fn take_pointer(&mut self, now: Time) {
        self.release_buttons(now);
        if let Some(hover) = self.pointer.hover.take() {
            self.tell(hover.vm, &ToGuest::PointerLeave, now);
        }
    }

    pub(super) fn axis(&mut self, (x, y): (f64, f64), (x120, y120): (i32, i32), now: Time) {
        if self.prompts.shown() {
            return;
        }
        let Some(key) = self.pointer.hover else {
            return;
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "scroll distances are small; the cast saturates"
        )]
        let fixed = |value: f64| (value * 256.0) as i32;
        let message = ToGuest::PointerAxis {
            x: fixed(x),
            y: fixed(y),
            x120,
            y120,
            time_ms: millis(now),
        };
        self.tell(key.vm, &message, now);
    }
}

fn edge_shape(edges: Edges) -> CursorShape {
    match (edges.left, edges.right, edges.top, edges.bottom) {
        (true, _, true, _) | (_, true, _, true) => CursorShape::ResizeNwse,
        (true, _, _, true) | (_, true, true, _) => CursorShape::ResizeNesw,
        (true, _, _, _) | (_, true, _, _) => CursorShape::ResizeEw,
        (_, _, true, _) | (_, _, _, true) => CursorShape::ResizeNs,
        _ => CursorShape::Default,
    }
}
