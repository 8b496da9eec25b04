//! What changed in a window's content, as few rectangles as a commit may carry. No pixels.

use casemate_window_wire::{DamageRect, limits::MAX_DAMAGE};
use smithay::utils::{Physical, Rectangle, Size};

/// At most [`MAX_DAMAGE`] rectangles inside a content of a given size; more become their bounding box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage(Vec<DamageRect>);

impl Damage {
    /// Everything of a content of this size.
    pub(crate) fn whole(width: u32, height: u32) -> Self {
        Self(vec![DamageRect {
            x: 0,
            y: 0,
            width,
            height,
        }])
    }

    /// Rectangles of a renderer, clipped to `size`.
    pub(crate) fn clipped(
        rects: impl IntoIterator<Item = Rectangle<i32, Physical>>,
        size: Size<i32, Physical>,
    ) -> Self {
        let mut damage = Self::default();
        let content = Rectangle::from_size(size);
        for rect in rects {
            let Some(rect) = rect.intersection(content).filter(|rect| !rect.is_empty()) else {
                continue;
            };
            // Inside the content, so nothing is negative.
            let unsigned = |value: i32| u32::try_from(value).unwrap_or(0);
            damage.add(DamageRect {
                x: unsigned(rect.loc.x),
                y: unsigned(rect.loc.y),
                width: unsigned(rect.size.w),
                height: unsigned(rect.size.h),
            });
        }
        damage
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rects(&self) -> &[DamageRect] {
        &self.0
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for &rect in &other.0 {
            self.add(rect);
        }
    }

    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    fn add(&mut self, rect: DamageRect) {
        if self.0.iter().any(|known| contains(*known, rect)) {
            return;
        }
        self.0.retain(|known| !contains(rect, *known));
        self.0.push(rect);
        if self.0.len() > MAX_DAMAGE {
            let all = self.0.drain(..).reduce(union);
            self.0.extend(all);
        }
    }
}

fn contains(outer: DamageRect, inner: DamageRect) -> bool {
    inner.x >= outer.x
        && inner.y >= outer.y
        && inner.x.saturating_add(inner.width) <= outer.x.saturating_add(outer.width)
        && inner.y.saturating_add(inner.height) <= outer.y.saturating_add(outer.height)
}

fn union(a: DamageRect, b: DamageRect) -> DamageRect {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    let right = a.x.saturating_add(a.width).max(b.x.saturating_add(b.width));
    let bottom =
        a.y.saturating_add(a.height)
            .max(b.y.saturating_add(b.height));
    DamageRect {
        x,
        y,
        width: right.saturating_sub(x),
        height: bottom.saturating_sub(y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: u32, y: u32, width: u32, height: u32) -> DamageRect {
        DamageRect {
            x,
            y,
            width,
            height,
        }
    }

    #[test]
    fn clipping_drops_what_is_outside() {
        let given = [
            Rectangle::new((-5, -5).into(), (10, 10).into()),
            Rectangle::new((90, 90).into(), (50, 50).into()),
            Rectangle::new((200, 0).into(), (5, 5).into()),
        ];
        let damage = Damage::clipped(given, (100, 100).into());
        assert_eq!(damage.rects(), [rect(0, 0, 5, 5), rect(90, 90, 10, 10)]);
    }

    #[test]
    fn contained_rectangles_are_not_kept_twice() {
        let mut damage = Damage(vec![rect(10, 10, 5, 5)]);
        damage.merge(&Damage(vec![rect(11, 11, 2, 2)]));
        assert_eq!(damage.rects(), [rect(10, 10, 5, 5)]);
        damage.merge(&Damage::whole(100, 100));
        assert_eq!(damage.rects(), [rect(0, 0, 100, 100)]);
    }

    #[test]
    fn too_many_become_their_bounding_box() {
        let mut damage = Damage::default();
        for step in 0..u32::try_from(MAX_DAMAGE).unwrap() {
            damage.merge(&Damage(vec![rect(step * 10, step, 5, 1)]));
        }
        assert_eq!(damage.rects().len(), MAX_DAMAGE);
        damage.merge(&Damage(vec![rect(1000, 500, 1, 1)]));
        assert_eq!(damage.rects(), [rect(0, 0, 1001, 501)]);
    }
}
