//! Where toplevels come to lie: a free place, on the screen, and back onto it when the output shrinks.

use casemate_window_wire::WindowId;

use super::{Windows, frame};
use crate::{
    geometry::{Point, Rect, Size},
    theme,
    words::WindowKey,
};

/// Space between the edges of the work area and a newly placed frame.
const MARGIN: i32 = 8;

/// Step of the cascade and of the search for a free place, in pixels.
const STEP: i32 = 40;

impl Windows {
    /// Gives a newly mapped toplevel its place: over its owner, else where it covers least.
    pub(super) fn place_toplevel(&mut self, key: WindowKey, owner: Option<WindowId>) {
        let Some(size) = self.windows.get(&key).map(|window| window.size) else {
            return;
        };
        let frame = frame::around(Rect::new(Point::default(), size));
        let owner = owner
            .map(|owner| WindowKey::new(key.vm, owner))
            .filter(|owner| self.stack.contains(owner))
            .and_then(|owner| self.content(owner));
        let area = self.work_area();
        let wanted = match owner {
            Some(owner) => Rect::new(
                Point::new(
                    owner.x + (owner.w - frame.w) / 2,
                    owner.y + (owner.h - frame.h) / 2,
                ),
                frame.size(),
            ),
            None => self.free_place(frame.size()),
        };
        let placed = wanted.moved_into(area.grown(-MARGIN));
        if let Some(window) = self.windows.get_mut(&key) {
            window.origin = frame::content_origin(placed.origin());
        }
        self.keep_on_screen(key);
    }

    /// The place of the search grid that covers the least of other frames; the cascade decides between equals.
    fn free_place(&mut self, size: Size) -> Rect {
        let area = self.work_area().grown(-MARGIN);
        let taken: Vec<Rect> = self
            .stack
            .iter()
            .filter_map(|&key| self.content(key))
            .map(frame::around)
            .collect();
        let covered = |place: Rect| -> i64 {
            taken
                .iter()
                .filter_map(|other| place.intersection(*other))
                .map(|shared| shared.size().area())
                .sum()
        };
        let room = Size::new(area.w - size.w, area.h - size.h);
        let start = self.cascade;
        self.cascade = (self.cascade + STEP) % (6 * STEP);
        let cascade = Rect::new(
            Point::new(area.x + STEP + start, area.y + STEP / 2 + start),
            size,
        )
        .moved_into(area);
        let mut best = (covered(cascade), cascade);
        let steps = |room: i32| (0..=room / STEP).map(|step| step * STEP).chain([room]);
        for y in steps(room.h) {
            for x in steps(room.w) {
                let place = Rect::new(Point::new(area.x + x, area.y + y), size);
                let cost = covered(place);
                if cost < best.0 {
                    best = (cost, place);
                }
            }
        }
        best.1
    }

    /// Asks a newly mapped toplevel that is larger than the work area for a size that is not.
    pub(super) fn shrink_to_fit(&mut self, key: WindowKey) {
        let Some(window) = self.windows.get(&key) else {
            return;
        };
        let fitting = window.size.min(self.bounds()).max(window.min);
        if fitting != window.size {
            self.configure(key, fitting);
        }
    }

    /// Moves a toplevel so that its title bar can be seen and grabbed.
    pub(super) fn keep_on_screen(&mut self, key: WindowKey) {
        let area = self.work_area();
        let Some(window) = self.windows.get_mut(&key) else {
            return;
        };
        let frame = frame::around(Rect::new(window.origin, window.size));
        let x = frame
            .x
            .min(area.right() - theme::GRAB)
            .max(area.x + theme::GRAB - frame.w);
        let y = frame.y.min(area.bottom() - theme::GRAB).max(area.y);
        window.origin = frame::content_origin(Point::new(x, y));
    }
}
