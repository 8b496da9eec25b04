//! The pointer. Guests name a shape from a list; the host draws it.

use std::collections::HashMap;

use casemate_window_wire::CursorShape;
use tiny_skia::{FillRule, Path, PathBuilder, Pixmap, Stroke, Transform};

use super::{
    Picture,
    draw::{blank, paint},
};
use crate::{geometry::Point, theme};

/// Side of every picture.
const SIDE: i32 = 24;
const CENTRE: Point = Point { x: 12, y: 12 };

/// A shape of the pointer.
pub(crate) type Shape = CursorShape;

/// Pictures of the shapes, drawn when first needed.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    pictures: HashMap<u8, (Picture, Point)>,
}

impl Cursors {
    /// Picture and hot spot; `None` for the hidden pointer.
    pub(super) fn get(&mut self, shape: Shape) -> Option<(Picture, Point)> {
        if shape == Shape::Hidden {
            return None;
        }
        let entry = self
            .pictures
            .entry(shape as u8)
            .or_insert_with(|| draw(shape));
        Some((entry.0.clone(), entry.1))
    }
}

fn draw(shape: Shape) -> (Picture, Point) {
    let mut pixmap = blank(SIDE, SIDE);
    let tip = Point::new(4, 2);
    let hotspot = match shape {
        Shape::Text => {
            outlined(
                &mut pixmap,
                lines(&[(9, 4, 15, 4), (12, 4, 12, 20), (9, 20, 15, 20)]),
            );
            CENTRE
        }
        Shape::Crosshair => {
            outlined(&mut pixmap, lines(&[(12, 3, 12, 21), (3, 12, 21, 12)]));
            CENTRE
        }
        Shape::Move => {
            outlined(&mut pixmap, arrows(&[0, 90]));
            CENTRE
        }
        Shape::ResizeEw => {
            outlined(&mut pixmap, arrows(&[0]));
            CENTRE
        }
        Shape::ResizeNs => {
            outlined(&mut pixmap, arrows(&[90]));
            CENTRE
        }
        Shape::ResizeNwse => {
            outlined(&mut pixmap, arrows(&[45]));
            CENTRE
        }
        Shape::ResizeNesw => {
            outlined(&mut pixmap, arrows(&[135]));
            CENTRE
        }
        Shape::Wait => {
            outlined(&mut pixmap, circle(8.0));
            outlined(&mut pixmap, lines(&[(12, 7, 12, 12), (12, 12, 15, 14)]));
            CENTRE
        }
        Shape::NotAllowed => {
            outlined(&mut pixmap, circle(8.0));
            outlined(&mut pixmap, lines(&[(7, 7, 17, 17)]));
            CENTRE
        }
        Shape::Default | Shape::Pointer | Shape::Hidden => {
            arrow(&mut pixmap, shape == Shape::Pointer);
            tip
        }
    };
    (Picture::new(&pixmap, false), hotspot)
}

fn arrow(pixmap: &mut Pixmap, link: bool) {
    let corners = [
        (4.0, 2.0),
        (4.0, 17.5),
        (7.8, 14.2),
        (10.4, 20.0),
        (13.2, 18.8),
        (10.6, 13.2),
        (15.6, 13.0),
    ];
    let mut path = PathBuilder::new();
    for (index, (x, y)) in corners.into_iter().enumerate() {
        if index == 0 {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    path.close();
    let ground = if link {
        theme::PROMPT_FOCUS
    } else {
        theme::BLACK
    };
    if let Some(path) = path.finish() {
        pixmap.fill_path(
            &path,
            &paint(ground),
            FillRule::Winding,
            Transform::identity(),
            None,
        );
        let stroke = Stroke {
            width: 1.3,
            ..Stroke::default()
        };
        pixmap.stroke_path(
            &path,
            &paint(theme::WHITE),
            &stroke,
            Transform::identity(),
            None,
        );
    }
}

/// Strokes a path in black with a white rim, so that it can be seen on any ground.
fn outlined(pixmap: &mut Pixmap, path: Option<Path>) {
    let Some(path) = path else {
        return;
    };
    for (width, colour) in [(4.0, theme::WHITE), (1.8, theme::BLACK)] {
        let stroke = Stroke {
            width,
            ..Stroke::default()
        };
        pixmap.stroke_path(&path, &paint(colour), &stroke, Transform::identity(), None);
    }
}

fn lines(all: &[(i16, i16, i16, i16)]) -> Option<Path> {
    let mut path = PathBuilder::new();
    for &(x0, y0, x1, y1) in all {
        path.move_to(f32::from(x0), f32::from(y0));
        path.line_to(f32::from(x1), f32::from(y1));
    }
    path.finish()
}

fn circle(radius: f32) -> Option<Path> {
    PathBuilder::from_circle(12.0, 12.0, radius)
}

/// Double-headed arrows through the centre, turned by degrees.
fn arrows(degrees: &[i16]) -> Option<Path> {
    let mut path = PathBuilder::new();
    for &turn in degrees {
        let (sin, cos) = f32::from(turn).to_radians().sin_cos();
        let at = |x: f32, y: f32| (12.0 + x * cos - y * sin, 12.0 + x * sin + y * cos);
        for side in [-1.0, 1.0] {
            let (tip, centre) = (at(side * 9.0, 0.0), at(0.0, 0.0));
            path.move_to(centre.0, centre.1);
            path.line_to(tip.0, tip.1);
            for wing in [-1.0, 1.0] {
                let end = at(side * 5.5, wing * 3.5);
                path.move_to(tip.0, tip.1);
                path.line_to(end.0, end.1);
            }
        }
    }
    path.finish()
}
