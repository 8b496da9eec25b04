//! The trusted strip at the top: the host's name and every VM with its colour. No window ever covers it.

use casemate_vm::Label;

use super::{
    Field, Picture, Style, Typesetter,
    draw::{blank, rectangle, rounded, skia},
};
use crate::{
    geometry::{Point, Rect},
    theme,
    windows::Windows,
    words::VmKey,
};

const TEXT_SIZE: u8 = 13;
const GAP: i32 = 10;
const CHIP: i32 = 12;

/// One VM on the strip.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    vm: VmKey,
    name: String,
    label: Label,
    windows: usize,
    attention: bool,
    focused: bool,
}

/// The strip, drawn again only when what it shows changes.
#[derive(Debug, Default)]
pub(crate) struct Panel {
    shown: Option<(i32, Vec<Entry>)>,
    picture: Option<Picture>,
    places: Vec<(VmKey, Rect)>,
}

impl Panel {
    pub(super) fn picture(&self) -> Option<&Picture> {
        self.picture.as_ref()
    }

    /// The VM whose name lies under a point.
    pub(crate) fn vm_at(&self, point: Point) -> Option<VmKey> {
        self.places
            .iter()
            .find(|(_, place)| place.contains(point))
            .map(|&(vm, _)| vm)
    }

    pub(super) fn update(&mut self, typesetter: &mut Typesetter, windows: &Windows) {
        let focus = windows.focused().map(|key| key.vm);
        let entries: Vec<Entry> = windows
            .vms()
            .map(|(vm, look)| {
                let (count, attention) = windows.summary(vm);
                Entry {
                    vm,
                    name: look.name.as_str().to_owned(),
                    label: look.label,
                    windows: count,
                    attention,
                    focused: focus == Some(vm),
                }
            })
            .collect();
        let shown = (windows.output().w, entries);
        if self.shown.as_ref() != Some(&shown) {
            self.draw(typesetter, &shown);
            self.shown = Some(shown);
        }
    }

    fn draw(&mut self, typesetter: &mut Typesetter, (width, entries): &(i32, Vec<Entry>)) {
        let mut pixmap = blank(*width, theme::PANEL);
        pixmap.fill(skia(theme::PANEL_GROUND));
        self.places.clear();
        let style = |bold, colour| Style {
            size: TEXT_SIZE,
            bold,
            colour,
        };
        let field = |x: i32| Field {
            x,
            y: 0,
            w: (width - x - GAP).max(0),
            h: theme::PANEL,
        };
        let mut x = GAP;
        x += typesetter.draw(
            &mut pixmap,
            "Casemate",
            style(true, theme::PANEL_TEXT),
            field(x),
        );
        x += 2 * GAP;
        for entry in entries {
            let start = x;
            let top = (theme::PANEL - CHIP) / 2;
            rounded(
                &mut pixmap,
                (x - 1, top - 1, CHIP + 2, CHIP + 2),
                3.0,
                theme::FAINT_TEXT,
            );
            rounded(&mut pixmap, (x, top, CHIP, CHIP), 2.5, entry.label.into());
            x += CHIP + GAP / 2;
            let ink = if entry.windows == 0 {
                theme::FAINT_TEXT
            } else {
                theme::PANEL_TEXT
            };
            let text = match entry.windows {
                0 | 1 => entry.name.clone(),
                count => format!("{} ({count})", entry.name),
            };
            x += typesetter.draw(&mut pixmap, &text, style(entry.focused, ink), field(x));
            if entry.attention {
                x += GAP / 2;
                let mark = style(true, theme::Colour::rgb(0x00ff_b84d));
                x += typesetter.draw(&mut pixmap, "•", mark, field(x));
            }
            if entry.focused {
                let line = (start, theme::PANEL - 2, x - start, 2);
                rectangle(&mut pixmap, line, theme::PANEL_TEXT);
            }
            let place = Rect {
                x: start - GAP / 2,
                y: 0,
                w: x - start + GAP,
                h: theme::PANEL,
            };
            self.places.push((entry.vm, place));
            x += 2 * GAP;
            if x >= *width {
                break;
            }
        }
        self.picture = Some(Picture::new(&pixmap, true));
    }
}
