//! Popups: the host solves their position, frames them, and dismisses them.

use casemate_window_wire::{Anchor, Position, ToGuest};

use super::{Phase, Role, Window, Windows};
use crate::{
    geometry::{Rect, Size},
    theme,
    words::WindowKey,
};

const SLIDE_X: u8 = 1;
const SLIDE_Y: u8 = 2;
const FLIP_X: u8 = 4;
const FLIP_Y: u8 = 8;
const RESIZE_X: u8 = 16;
const RESIZE_Y: u8 = 32;

/// Most of the output that a popup may cover, in percent: one that hides everything could pass for the host.
const MAX_COVER_PERCENT: i64 = 90;

/// Horizontal and vertical direction of an edge or corner.
fn direction(anchor: Anchor) -> (i32, i32) {
    match anchor {
        Anchor::None => (0, 0),
        Anchor::Top => (0, -1),
        Anchor::Bottom => (0, 1),
        Anchor::Left => (-1, 0),
        Anchor::Right => (1, 0),
        Anchor::TopLeft => (-1, -1),
        Anchor::BottomLeft => (-1, 1),
        Anchor::TopRight => (1, -1),
        Anchor::BottomRight => (1, 1),
    }
}

/// One axis of the problem.
#[derive(Clone, Copy)]
struct Axis {
    /// Anchor rectangle: start and length, on the output.
    start: i32,
    length: i32,
    anchor: i32,
    gravity: i32,
    offset: i32,
    size: i32,
    /// Where the popup may lie.
    low: i32,
    high: i32,
}

impl Axis {
    fn place(self) -> i32 {
        let point = match self.anchor {
            -1 => self.start,
            1 => self.start + self.length,
            _ => self.start + self.length / 2,
        } + self.offset;
        match self.gravity {
            -1 => point - self.size,
            1 => point,
            _ => point - self.size / 2,
        }
    }

    fn fits(self, at: i32) -> bool {
        at >= self.low && at + self.size <= self.high
    }

    /// Start and length after the allowed adjustments; always within the bounds.
    fn solve(mut self, flip: bool, slide: bool, resize: bool) -> (i32, i32) {
        let mut at = self.place();
        if !self.fits(at) && flip {
            let flipped = Self {
                anchor: -self.anchor,
                gravity: -self.gravity,
                offset: -self.offset,
                ..self
            };
            if flipped.fits(flipped.place()) {
                at = flipped.place();
            }
        }
        if !self.fits(at) && resize && !slide {
            let (low, high) = (at.max(self.low), (at + self.size).min(self.high));
            if high - low > 0 {
                return (low, high - low);
            }
        }
        // What the client allows by sliding the host does anyway: a popup never leaves its bounds.
        self.size = self.size.min(self.high - self.low).max(1);
        at = at.min(self.high - self.size).max(self.low);
        (at, self.size)
    }
}

/// Solves a position against the output; the answer is on the output.
fn solve(position: &Position, parent: Rect, bounds: Rect) -> Rect {
    let (x, y, width, height) = position.anchor_rect;
    let anchor_size = Size::from_wire((width, height));
    // The anchor lies in the parent, whatever the client says.
    let clamp = |value: i32, length: i32| value.clamp(0, length.max(0));
    let left = clamp(x, parent.w);
    let top = clamp(y, parent.h);
    let right = clamp(x.saturating_add(anchor_size.w), parent.w).max(left);
    let bottom = clamp(y.saturating_add(anchor_size.h), parent.h).max(top);
    let (anchor_x, anchor_y) = direction(position.anchor);
    let (gravity_x, gravity_y) = direction(position.gravity);
    let size = Size::from_wire(position.size);
    let allowed = |bit: u8| position.constraints & bit != 0;
    let (x, w) = Axis {
        start: parent.x + left,
        length: right - left,
        anchor: anchor_x,
        gravity: gravity_x,
        offset: position.offset.0,
        size: size.w,
        low: bounds.x,
        high: bounds.right(),
    }
    .solve(allowed(FLIP_X), allowed(SLIDE_X), allowed(RESIZE_X));
    let (y, mut h) = Axis {
        start: parent.y + top,
        length: bottom - top,
        anchor: anchor_y,
        gravity: gravity_y,
        offset: position.offset.1,
        size: size.h,
        low: bounds.y,
        high: bounds.bottom(),
    }
    .solve(allowed(FLIP_Y), allowed(SLIDE_Y), allowed(RESIZE_Y));
    let cover = bounds.size().area() * MAX_COVER_PERCENT / 100;
    if Size::new(w, h).area() > cover {
        h = i32::try_from(cover / i64::from(w.max(1)))
            .unwrap_or(h)
            .max(1);
    }
    Rect { x, y, w, h }
}

impl Windows {
    /// Gives a popup its place relative to its parent, from its wish.
    pub(super) fn solve_popup(&mut self, key: WindowKey) {
        let Some(Window {
            role: Role::Popup { parent, .. },
            placed: Some((position, _)),
            ..
        }) = self.windows.get(&key)
        else {
            return;
        };
        let position = *position;
        let parent = self
            .content(WindowKey::new(key.vm, *parent))
            .unwrap_or_default();
        let bounds = self.work_area().grown(-theme::POPUP_BORDER);
        let solved = solve(&position, parent, bounds);
        if let Some(window) = self.windows.get_mut(&key) {
            window.origin = solved.origin().minus(parent.origin());
            window.placed = Some((position, solved.size()));
        }
    }

    /// A toplevel has moved: its popups move along, but not off the output.
    pub(super) fn solve_popups_of(&mut self, toplevel: WindowKey) {
        for key in self.popups.clone() {
            if self.toplevel_of(key) == Some(toplevel) {
                self.solve_popup(key);
            }
        }
    }

    /// Popups that hang below a window, nearest first.
    pub(super) fn popups_below(&self, key: WindowKey) -> Vec<WindowKey> {
        self.popups
            .iter()
            .copied()
            .filter(|&popup| popup != key && self.hangs_on(popup, key))
            .collect()
    }

    /// A click fell on `target`: grabbing popups that are not on its path go at once, and their guests are told.
    pub(super) fn dismiss_popups(&mut self, target: Option<WindowKey>) {
        for key in self.popups.clone().into_iter().rev() {
            let grab = matches!(
                self.windows.get(&key),
                Some(Window {
                    role: Role::Popup { grab: true, .. },
                    phase: Phase::Mapped,
                    ..
                })
            );
            if grab && !target.is_some_and(|target| self.hangs_on(target, key)) {
                for child in self.popups_below(key).into_iter().rev().chain([key]) {
                    self.dismiss(child);
                }
            }
        }
    }

    /// A person's act: every grabbing popup goes.
    pub(crate) fn dismiss_all(&mut self) {
        self.dismiss_popups(None);
    }

    fn dismiss(&mut self, key: WindowKey) {
        if let Some(window) = self.windows.get_mut(&key)
            && window.phase == Phase::Mapped
        {
            window.phase = Phase::Dismissed;
            self.popups.retain(|&other| other != key);
            self.outgoing.push((key.vm, ToGuest::Close { id: key.id }));
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_window_wire::WindowId;

    use super::*;

    const BOUNDS: Rect = Rect {
        x: 0,
        y: 24,
        w: 1000,
        h: 776,
    };
    const PARENT: Rect = Rect {
        x: 100,
        y: 100,
        w: 400,
        h: 300,
    };

    fn menu(at: (i32, i32), size: (u32, u32), constraints: u8) -> Position {
        Position {
            id: WindowId(1),
            anchor_rect: (at.0, at.1, 50, 20),
            size,
            anchor: Anchor::BottomLeft,
            gravity: Anchor::BottomRight,
            constraints,
            offset: (0, 0),
            token: 0,
        }
    }

    #[test]
    fn positions_are_solved() {
        let rect = |x, y, w, h| Rect { x, y, w, h };
        for (parent, position, expected) in [
            (
                PARENT,
                menu((10, 10), (100, 200), 0),
                rect(110, 130, 100, 200),
            ),
            // Flipped above its anchor: there is no room below.
            (
                rect(100, 500, 400, 280),
                menu((10, 250), (100, 200), FLIP_Y),
                rect(110, 550, 100, 200),
            ),
            // Slid back onto the output.
            (
                rect(700, 100, 400, 300),
                menu((280, 10), (100, 200), SLIDE_X),
                rect(900, 130, 100, 200),
            ),
            // Made smaller rather than moved.
            (
                rect(100, 500, 400, 280),
                menu((10, 10), (100, 400), RESIZE_Y),
                rect(110, 530, 100, 270),
            ),
            // Larger than the output: cut to the part that a popup may cover.
            (
                PARENT,
                menu((0, 0), (5000, 5000), 0),
                rect(0, 24, 1000, 698),
            ),
            // An anchor outside the parent is drawn into it.
            (
                PARENT,
                menu((-9000, 9000), (100, 100), 0),
                rect(100, 400, 100, 100),
            ),
        ] {
            assert_eq!(solve(&position, parent, BOUNDS), expected, "{position:?}");
        }
    }
}
