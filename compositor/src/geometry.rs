//! Points and rectangles of the output, in whole pixels. Pure numbers; knows no window.
//!
//! Every value that reaches this file is bounded (`MAX_EXTENT`, `MAX_OFFSET`, the output's size), so that sums of
//! a few of them stay far inside `i32`.

use casemate_window_wire::limits;

/// A place on the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) x: i32,
    pub(crate) y: i32,
}

impl Point {
    pub(crate) fn new(x: i32, y: i32) -> Self {
        Self { x, y }
    }

    pub(crate) fn offset(self, by: Self) -> Self {
        Self::new(self.x + by.x, self.y + by.y)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self::new(self.x - other.x, self.y - other.y)
    }
}

/// A width and a height, not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) w: i32,
    pub(crate) h: i32,
}

impl Size {
    pub(crate) fn new(w: i32, h: i32) -> Self {
        Self {
            w: w.max(0),
            h: h.max(0),
        }
    }

    /// A size from the wire; the codec has bounded it.
    pub(crate) fn from_wire((w, h): (u32, u32)) -> Self {
        let bounded = |value: u32| i32::try_from(value.min(limits::MAX_EXTENT)).unwrap_or(i32::MAX);
        Self::new(bounded(w), bounded(h))
    }

    /// The size as the wire writes it.
    pub(crate) fn to_wire(self) -> (u32, u32) {
        (
            u32::try_from(self.w).unwrap_or(0),
            u32::try_from(self.h).unwrap_or(0),
        )
    }

    pub(crate) fn min(self, other: Self) -> Self {
        Self::new(self.w.min(other.w), self.h.min(other.h))
    }

    pub(crate) fn max(self, other: Self) -> Self {
        Self::new(self.w.max(other.w), self.h.max(other.h))
    }

    pub(crate) fn area(self) -> i64 {
        i64::from(self.w) * i64::from(self.h)
    }
}

/// A rectangle of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) w: i32,
    pub(crate) h: i32,
}

impl Rect {
    pub(crate) fn new(origin: Point, size: Size) -> Self {
        Self {
            x: origin.x,
            y: origin.y,
            w: size.w,
            h: size.h,
        }
    }

    pub(crate) fn origin(self) -> Point {
        Point::new(self.x, self.y)
    }

    pub(crate) fn size(self) -> Size {
        Size::new(self.w, self.h)
    }

    pub(crate) fn right(self) -> i32 {
        self.x + self.w
    }

    pub(crate) fn bottom(self) -> i32 {
        self.y + self.h
    }

    pub(crate) fn contains(self, point: Point) -> bool {
        (self.x..self.right()).contains(&point.x) && (self.y..self.bottom()).contains(&point.y)
    }

    /// The rectangle with `by` pixels more on each side.
    pub(crate) fn grown(self, by: i32) -> Self {
        Self {
            x: self.x - by,
            y: self.y - by,
            w: (self.w + 2 * by).max(0),
            h: (self.h + 2 * by).max(0),
        }
    }

    pub(crate) fn intersection(self, other: Self) -> Option<Self> {
        let x = self.x.max(other.x);
        let y = self.y.max(other.y);
        let w = self.right().min(other.right()) - x;
        let h = self.bottom().min(other.bottom()) - y;
        (w > 0 && h > 0).then_some(Self { x, y, w, h })
    }

    /// The smallest rectangle that holds both.
    pub(crate) fn union(self, other: Self) -> Self {
        let x = self.x.min(other.x);
        let y = self.y.min(other.y);
        Self {
            x,
            y,
            w: self.right().max(other.right()) - x,
            h: self.bottom().max(other.bottom()) - y,
        }
    }

    /// The rectangle moved so that it lies in `bounds` where it fits; where it does not, its left top corner does.
    pub(crate) fn moved_into(self, bounds: Self) -> Self {
        Self {
            x: self.x.min(bounds.right() - self.w).max(bounds.x),
            y: self.y.min(bounds.bottom() - self.h).max(bounds.y),
            ..self
        }
    }
}
