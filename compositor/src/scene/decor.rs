//! Title bars: `[vm]` in a field of its own that a title cannot reach, the sanitised title, the close button.

use std::collections::HashMap;

use casemate_vm::Label;
use tiny_skia::{PathBuilder, Stroke, Transform};

use super::{
    Field, Picture, Style, Typesetter,
    draw::{blank, paint, rectangle, skia},
};
use crate::{
    theme::{self, Colour},
    windows::Layer,
    words::WindowKey,
};

const TEXT_SIZE: u8 = 13;
const PADDING: i32 = 8;

/// What a title bar shows; it is drawn again only when this changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    vm: String,
    title: String,
    label: Label,
    focused: bool,
    width: i32,
}

#[derive(Debug)]
struct Bar {
    shown: Shown,
    title: Picture,
    close: Picture,
    used: bool,
}

/// The title bars of all windows.
#[derive(Debug, Default)]
pub(super) struct Decor {
    bars: HashMap<WindowKey, Bar>,
}

impl Decor {
    /// Pictures of a window's title, `width` pixels wide, and of its close button.
    pub(super) fn title_bar(
        &mut self,
        typesetter: &mut Typesetter,
        layer: &Layer<'_>,
        width: i32,
    ) -> (Picture, Picture) {
        let title = if layer.stuck {
            format!("{} (not responding)", layer.title)
        } else {
            layer.title.to_owned()
        };
        let shown = Shown {
            vm: layer.vm_name.to_owned(),
            title,
            label: layer.label,
            focused: layer.focused,
            width: width.max(1),
        };
        let bar = match self.bars.get_mut(&layer.key) {
            Some(bar) if bar.shown == shown => {
                bar.used = true;
                return (bar.title.clone(), bar.close.clone());
            }
            _ => Bar {
                title: draw_title(typesetter, &shown),
                close: draw_close(&shown),
                shown,
                used: true,
            },
        };
        let pictures = (bar.title.clone(), bar.close.clone());
        self.bars.insert(layer.key, bar);
        pictures
    }

    /// Forgets title bars that the last frame did not show.
    pub(super) fn sweep(&mut self) {
        self.bars
            .retain(|_, bar| std::mem::replace(&mut bar.used, false));
    }
}

/// Ground and text of a title bar.
fn colours(shown: &Shown) -> (Colour, Colour) {
    let label = Colour::from(shown.label);
    if shown.focused {
        (label, label.readable_on())
    } else {
        let ground = label.mixed(Colour::rgb(0x0030_343c), 62);
        (ground, ground.readable_on().mixed(ground, 25))
    }
}

fn draw_title(typesetter: &mut Typesetter, shown: &Shown) -> Picture {
    let mut pixmap = blank(shown.width, theme::TITLE);
    let (ground, ink) = colours(shown);
    pixmap.fill(skia(ground));
    let style = Style {
        size: TEXT_SIZE,
        bold: true,
        colour: ink,
    };
    let prefix = format!("[{}]", shown.vm);
    let prefix_width = typesetter
        .width(&prefix, style)
        .min((shown.width - 2 * PADDING).max(1));
    let chip = prefix_width + 2 * PADDING;
    let shade = if ink == theme::BLACK {
        ground.mixed(theme::WHITE, 35)
    } else {
        ground.mixed(theme::BLACK, 35)
    };
    rectangle(&mut pixmap, (0, 0, chip, theme::TITLE), shade);
    let prefix_style = Style {
        colour: shade.readable_on(),
        ..style
    };
    let field = |x: i32, w: i32| Field {
        x,
        y: 0,
        w: w.max(0),
        h: theme::TITLE,
    };
    typesetter.draw(
        &mut pixmap,
        &prefix,
        prefix_style,
        field(PADDING, prefix_width),
    );
    let left = chip + PADDING;
    let room = shown.width - left - PADDING;
    if room > 2 * PADDING {
        let style = Style {
            bold: false,
            ..style
        };
        typesetter.draw(&mut pixmap, &shown.title, style, field(left, room));
    }
    Picture::new(&pixmap, true)
}

fn draw_close(shown: &Shown) -> Picture {
    let mut pixmap = blank(theme::TITLE, theme::TITLE);
    let (ground, ink) = colours(shown);
    pixmap.fill(skia(ground));
    let mut path = PathBuilder::new();
    path.move_to(8.0, 8.0);
    path.line_to(16.0, 16.0);
    path.move_to(16.0, 8.0);
    path.line_to(8.0, 16.0);
    if let Some(path) = path.finish() {
        let stroke = Stroke {
            width: 1.8,
            ..Stroke::default()
        };
        pixmap.stroke_path(&path, &paint(ink), &stroke, Transform::identity(), None);
    }
    Picture::new(&pixmap, true)
}
