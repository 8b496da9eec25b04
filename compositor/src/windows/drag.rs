//! Moving and resizing by the pointer.

use super::{Windows, frame};
use crate::{
    geometry::{Point, Rect, Size},
    words::WindowKey,
};

/// Which sides of a window a drag moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edges {
    pub(crate) left: bool,
    pub(crate) right: bool,
    pub(crate) top: bool,
    pub(crate) bottom: bool,
}

impl Edges {
    /// The corner of a frame that is nearest to a point.
    fn nearest(frame: Rect, point: Point) -> Self {
        let left = point.x < frame.x + frame.w / 2;
        let top = point.y < frame.y + frame.h / 2;
        Self {
            left,
            right: !left,
            top,
            bottom: !top,
        }
    }
}

/// Sides that stay where they are while a window gets another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    right: Option<i32>,
    bottom: Option<i32>,
}

/// A drag under way.
#[derive(Debug)]
pub(super) struct Drag {
    pub(super) key: WindowKey,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// From the pointer to the content's corner.
    Move { grip: Point },
    Resize {
        edges: Edges,
        start: Size,
        from: Point,
    },
}

impl Windows {
    /// Whether the pointer moves or resizes a window.
    pub(crate) fn dragging(&self) -> bool {
        self.drag.is_some()
    }

    /// Starts moving a toplevel.
    pub(crate) fn begin_move(&mut self, key: WindowKey, pointer: Point) {
        if !self.stack.contains(&key) {
            return;
        }
        if let Some(window) = self.windows.get_mut(&key) {
            window.anchor = None;
            self.drag = Some(Drag {
                key,
                kind: Kind::Move {
                    grip: window.origin.minus(pointer),
                },
            });
        }
    }

    /// Starts resizing a toplevel; without edges by the corner nearest to the pointer.
    pub(crate) fn begin_resize(&mut self, key: WindowKey, edges: Option<Edges>, pointer: Point) {
        if !self.stack.contains(&key) {
            return;
        }
        let Some(window) = self.windows.get_mut(&key) else {
            return;
        };
        let content = Rect::new(window.origin, window.size);
        let edges = edges.unwrap_or_else(|| Edges::nearest(frame::around(content), pointer));
        window.restore = None;
        window.anchor = Some(Anchor {
            right: edges.left.then_some(content.right()),
            bottom: edges.top.then_some(content.bottom()),
        });
        self.drag = Some(Drag {
            key,
            kind: Kind::Resize {
                edges,
                start: window.size,
                from: pointer,
            },
        });
    }

    /// The pointer moved during a drag.
    pub(crate) fn drag_to(&mut self, pointer: Point) {
        let Some(drag) = &self.drag else {
            return;
        };
        let key = drag.key;
        match drag.kind {
            Kind::Move { grip } => {
                if let Some(window) = self.windows.get_mut(&key) {
                    window.origin = pointer.offset(grip);
                    window.restore = None;
                }
                self.keep_on_screen(key);
                self.solve_popups_of(key);
            }
            Kind::Resize { edges, start, from } => {
                let by = pointer.minus(from);
                let grow = |low: bool, high: bool, by: i32| match (low, high) {
                    (true, _) => -by,
                    (_, true) => by,
                    _ => 0,
                };
                let (min, max) = self.size_limits(key);
                let wanted = Size::new(
                    start.w + grow(edges.left, edges.right, by.x),
                    start.h + grow(edges.top, edges.bottom, by.y),
                )
                .min(max)
                .max(min);
                if let Some(window) = self.windows.get_mut(&key) {
                    window.configured.wanted = Some(wanted);
                }
                self.continue_resize(key);
            }
        }
    }

    /// The button was released.
    pub(crate) fn end_drag(&mut self) {
        self.drag = None;
    }

    /// Tells a guest the newest wanted size, once it has answered the one before.
    pub(super) fn continue_resize(&mut self, key: WindowKey) {
        let Some(window) = self.windows.get(&key) else {
            return;
        };
        let told = window.configured;
        if let Some(wanted) = told.wanted
            && wanted != told.size
            && told.acked >= told.serial
        {
            self.configure(key, wanted);
        }
    }

    /// A toplevel has shown content of another size: its anchored sides stay, and it stays on the screen.
    pub(super) fn after_resize(&mut self, key: WindowKey) {
        let dragged = self.drag.as_ref().is_some_and(|drag| drag.key == key);
        if let Some(window) = self.windows.get_mut(&key) {
            if let Some(anchor) = window.anchor {
                if let Some(right) = anchor.right {
                    window.origin.x = right - window.size.w;
                }
                if let Some(bottom) = anchor.bottom {
                    window.origin.y = bottom - window.size.h;
                }
            }
            if !dragged && window.configured.acked >= window.configured.serial {
                window.anchor = None;
            }
        }
        self.keep_on_screen(key);
        self.solve_popups_of(key);
    }

    /// Fills the work area with a toplevel, or gives it its former place back.
    pub(crate) fn toggle_maximized(&mut self, key: WindowKey) {
        let (area, bounds) = (self.work_area(), self.bounds());
        if !self.stack.contains(&key) {
            return;
        }
        let Some(window) = self.windows.get_mut(&key) else {
            return;
        };
        window.anchor = None;
        let target = match window.restore.take() {
            Some(restore) => restore,
            None => {
                window.restore = Some(Rect::new(window.origin, window.size));
                Rect::new(frame::content_origin(area.origin()), bounds)
            }
        };
        window.origin = target.origin();
        self.configure(key, target.size());
        self.keep_on_screen(key);
        self.solve_popups_of(key);
    }
}
