//! Drawing primitives of the host's own pictures: grounds, boxes, lines.

use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, Rect as PathRect, Transform};

use crate::theme::Colour;

/// An empty drawing of at least one pixel.
pub(crate) fn blank(width: i32, height: i32) -> Pixmap {
    let side = |value: i32| u32::try_from(value.max(1)).unwrap_or(1);
    Pixmap::new(side(width), side(height))
        .unwrap_or_else(|| Pixmap::new(1, 1).expect("one pixel is neither empty nor too large"))
}

pub(crate) fn skia(colour: Colour) -> Color {
    Color::from_rgba8(colour.r, colour.g, colour.b, 255)
}

pub(crate) fn paint(colour: Colour) -> Paint<'static> {
    let mut paint = Paint {
        anti_alias: true,
        ..Paint::default()
    };
    paint.set_color(skia(colour));
    paint
}

/// Fills a rectangle `(x, y, width, height)` with sharp edges.
pub(crate) fn rectangle(pixmap: &mut Pixmap, place: (i32, i32, i32, i32), colour: Colour) {
    if let Some(rect) = path_rect(place) {
        let paint = Paint {
            anti_alias: false,
            ..paint(colour)
        };
        pixmap.fill_rect(rect, &paint, Transform::identity(), None);
    }
}

/// Fills a rectangle with rounded corners.
pub(crate) fn rounded(
    pixmap: &mut Pixmap,
    place: (i32, i32, i32, i32),
    radius: f32,
    colour: Colour,
) {
    let Some(rect) = path_rect(place) else {
        return;
    };
    let (l, t, r, b) = (rect.left(), rect.top(), rect.right(), rect.bottom());
    let mut path = PathBuilder::new();
    path.move_to(l + radius, t);
    path.line_to(r - radius, t);
    path.quad_to(r, t, r, t + radius);
    path.line_to(r, b - radius);
    path.quad_to(r, b, r - radius, b);
    path.line_to(l + radius, b);
    path.quad_to(l, b, l, b - radius);
    path.line_to(l, t + radius);
    path.quad_to(l, t, l + radius, t);
    path.close();
    if let Some(path) = path.finish() {
        pixmap.fill_path(
            &path,
            &paint(colour),
            FillRule::Winding,
            Transform::identity(),
            None,
        );
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "coordinates of a picture, far below 2^24"
)]
fn path_rect((x, y, w, h): (i32, i32, i32, i32)) -> Option<PathRect> {
    PathRect::from_xywh(x as f32, y as f32, w as f32, h as f32)
}
