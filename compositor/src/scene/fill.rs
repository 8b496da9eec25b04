//! Rectangles of one colour, with the identity that damage tracking needs.

use std::collections::HashMap;

use smithay::{
    backend::renderer::{
        Color32F,
        element::{Id, Kind, solid::SolidColorRenderElement},
        utils::CommitCounter,
    },
    utils::{Physical, Rectangle},
};

use crate::{geometry::Rect, theme::Colour, words::WindowKey};

/// Which rectangle of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Frame,
    Ring,
}

/// How dark everything behind a prompt becomes.
const VEIL: f32 = 0.45;

#[derive(Debug)]
struct Fill {
    id: Id,
    commit: CommitCounter,
    colour: Colour,
    used: bool,
}

/// The rectangles of all windows.
#[derive(Debug, Default)]
pub(super) struct Fills {
    fills: HashMap<(WindowKey, Part), Fill>,
    veil: Option<Id>,
}

impl Fills {
    pub(super) fn fill(
        &mut self,
        key: WindowKey,
        part: Part,
        place: Rect,
        colour: Colour,
    ) -> SolidColorRenderElement {
        let fill = self.fills.entry((key, part)).or_insert_with(|| Fill {
            id: Id::new(),
            commit: CommitCounter::default(),
            colour,
            used: true,
        });
        fill.used = true;
        if fill.colour != colour {
            fill.colour = colour;
            fill.commit.increment();
        }
        SolidColorRenderElement::new(
            fill.id.clone(),
            physical(place),
            fill.commit,
            colour32(colour),
            Kind::Unspecified,
        )
    }

    /// The shade between windows and prompt.
    pub(super) fn veil(&mut self, place: Rect) -> SolidColorRenderElement {
        let id = self.veil.get_or_insert_with(Id::new).clone();
        SolidColorRenderElement::new(
            id,
            physical(place),
            CommitCounter::default(),
            Color32F::new(0.0, 0.0, 0.0, VEIL),
            Kind::Unspecified,
        )
    }

    /// Forgets rectangles that the last frame did not use.
    pub(super) fn sweep(&mut self) {
        self.fills
            .retain(|_, fill| std::mem::replace(&mut fill.used, false));
    }
}

fn physical(rect: Rect) -> Rectangle<i32, Physical> {
    Rectangle::new((rect.x, rect.y).into(), (rect.w, rect.h).into())
}

pub(super) fn colour32(colour: Colour) -> Color32F {
    let part = |value: u8| f32::from(value) / 255.0;
    Color32F::new(part(colour.r), part(colour.g), part(colour.b), 1.0)
}
