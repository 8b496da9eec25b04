//! Notices: one line of the host's own words for a few seconds, at the right of the lower edge.

use std::{collections::VecDeque, time::Duration};

use casemate_api::Notice;

use super::Overlay;
use crate::{
    geometry::{Point, Size},
    scene::{
        Field, Picture, Style, Typesetter,
        draw::{blank, rectangle, rounded, skia},
        sanitise,
    },
    theme::{self, Colour},
    words::Time,
};

/// How long a notice is shown.
const SHOWN: Duration = Duration::from_secs(6);
/// Most notices at a time; the oldest gives way.
const MAX: usize = 4;
const WIDTH: i32 = 600;
const HEIGHT: i32 = 40;
const GAP: i32 = 8;

#[derive(Debug)]
struct Shown {
    text: String,
    mark: Colour,
    until: Time,
    picture: Option<Picture>,
}

/// The notices on the screen.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    shown: VecDeque<Shown>,
}

impl Notices {
    pub(crate) fn add(&mut self, notice: &Notice, now: Time) {
        let mark = match notice.kind.as_str() {
            "denied" => Colour::rgb(0x00e0_6c2e),
            "failed" => Colour::rgb(0x00d6_3a3a),
            _ => theme::PROMPT_FOCUS,
        };
        if self.shown.len() >= MAX {
            self.shown.pop_front();
        }
        self.shown.push_back(Shown {
            text: sanitise::title(&notice.text),
            mark,
            until: now + SHOWN,
            picture: None,
        });
    }

    /// Drops notices whose time is over; answers whether the screen changes.
    pub(crate) fn sweep(&mut self, now: Time) -> bool {
        let before = self.shown.len();
        self.shown.retain(|notice| notice.until > now);
        before != self.shown.len()
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.shown.front().map(|notice| notice.until)
    }

    pub(crate) fn draw(
        &mut self,
        typesetter: &mut Typesetter,
        output: Size,
        overlay: &mut Overlay,
    ) {
        let width = WIDTH.min(output.w - 2 * GAP).max(1);
        let mut at = Point::new(output.w - width - GAP, output.h - HEIGHT - GAP);
        overlay.notices.clear();
        for notice in self.shown.iter_mut().rev() {
            let picture = notice.picture.get_or_insert_with(|| {
                let mut pixmap = blank(width, HEIGHT);
                pixmap.fill(skia(theme::PANEL_GROUND));
                rectangle(&mut pixmap, (0, 0, 5, HEIGHT), notice.mark);
                rounded(&mut pixmap, (16, 15, 10, 10), 5.0, notice.mark);
                typesetter.draw(
                    &mut pixmap,
                    &notice.text,
                    Style {
                        size: 13,
                        bold: false,
                        colour: theme::PANEL_TEXT,
                    },
                    Field {
                        x: 36,
                        y: 0,
                        w: width - 48,
                        h: HEIGHT,
                    },
                );
                Picture::new(&pixmap, true)
            });
            overlay.notices.push((picture.clone(), at));
            at.y -= HEIGHT + GAP;
        }
    }
}
