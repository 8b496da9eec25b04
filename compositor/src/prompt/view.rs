//! How a question looks, and where its buttons are.

use tiny_skia::Pixmap;

use super::{Button, Question};
use crate::{
    geometry::{Point, Rect, Size},
    scene::{
        Field, Picture, Style, Typesetter,
        draw::{blank, rectangle, rounded, skia},
    },
    theme::{self, Colour},
};

const WIDTH: i32 = 640;
const HEADER: i32 = 44;
const LINE: i32 = 26;
const ROW: i32 = 30;
const MARGIN: i32 = 18;
const BUTTON: (i32, i32) = (124, 34);
/// Between two buttons.
const GAP: i32 = 12;
/// Rows of targets shown at once; the selected one is always among them.
const VISIBLE: usize = 8;
/// Border of a question: the trusted layer's own, neutral.
const EDGE: i32 = 2;

/// Everything the trusted layer shows above the windows.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    pub(crate) prompt: Option<(Picture, Point)>,
    pub(crate) notices: Vec<(Picture, Point)>,
}

/// What a drawn question showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) question: Question,
    pub(super) selected: Option<usize>,
    pub(super) button: Button,
    pub(super) armed: bool,
    pub(super) output: (u32, u32),
}

/// Places of a drawn question on the output.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) place: Rect,
    pub(super) buttons: [(Button, Rect); 3],
    pub(super) rows: Vec<(usize, Rect)>,
}

fn style(size: u8, bold: bool, colour: Colour) -> Style {
    Style { size, bold, colour }
}

fn field(x: i32, y: i32, w: i32, h: i32) -> Field {
    Field {
        x,
        y,
        w: w.max(0),
        h,
    }
}

/// Draws a question in the middle of the output.
pub(super) fn draw(typesetter: &mut Typesetter, shown: &Drawn, output: Size) -> (Picture, Layout) {
    let question = &shown.question;
    let width = WIDTH.min(output.w - 2 * MARGIN).max(200);
    let rows = question.targets.len().min(VISIBLE);
    let rows_height = i32::try_from(rows).unwrap_or(0) * ROW;
    let argument_height = if question.argument.is_empty() {
        0
    } else {
        LINE
    };
    let height =
        HEADER + MARGIN + LINE + argument_height + LINE + rows_height + 2 * MARGIN + BUTTON.1;
    let place = Rect {
        x: (output.w - width) / 2,
        y: ((output.h - height) / 2).max(theme::PANEL + 1),
        w: width,
        h: height,
    };
    let mut pixmap = blank(width, height);
    pixmap.fill(skia(theme::PROMPT_FOCUS));
    rectangle(
        &mut pixmap,
        (EDGE, EDGE, width - 2 * EDGE, height - 2 * EDGE),
        theme::PROMPT_GROUND,
    );
    header(&mut pixmap, typesetter, question, width);

    let inner = width - 2 * MARGIN;
    let mut y = HEADER + MARGIN;
    let label = style(13, false, Colour::rgb(0x0055_5c66));
    let used = typesetter.draw(&mut pixmap, "Service", label, field(MARGIN, y, inner, LINE));
    let column = MARGIN + used.max(64) + 12;
    typesetter.draw(
        &mut pixmap,
        &question.service,
        style(15, true, theme::PROMPT_TEXT),
        field(column, y, width - MARGIN - column, LINE),
    );
    y += LINE;
    if !question.argument.is_empty() {
        typesetter.draw(
            &mut pixmap,
            "Argument",
            label,
            field(MARGIN, y, inner, LINE),
        );
        typesetter.draw(
            &mut pixmap,
            &question.argument,
            style(13, false, theme::PROMPT_TEXT),
            field(column, y, width - MARGIN - column, LINE),
        );
        y += LINE;
    }
    typesetter.draw(&mut pixmap, "Target", label, field(MARGIN, y, inner, LINE));
    y += LINE;
    let rows = draw_rows(&mut pixmap, typesetter, shown, (y, inner));
    let buttons_y = height - MARGIN - BUTTON.1;
    let can_allow = shown.armed && shown.selected.is_some();
    // On a narrow output they give way to one another.
    let button_width = BUTTON.0.min((inner - 2 * GAP) / 3).max(1);
    let first = width - MARGIN - 3 * button_width - 2 * GAP;
    let mut x = first;
    let buttons = Button::ALL.map(|which| {
        let place = Rect {
            x,
            y: buttons_y,
            w: button_width,
            h: BUTTON.1,
        };
        x += button_width + GAP;
        let (text, enabled) = match which {
            Button::Deny => ("Deny", true),
            Button::Allow => ("Allow", can_allow),
            Button::AllowForAWhile => ("Allow 10 min", can_allow),
        };
        let focused = shown.button == which;
        button(&mut pixmap, typesetter, place, (text, enabled, focused));
        (which, place)
    });
    let hint = if !shown.armed {
        "Read first: Allow in a second"
    } else if shown.selected.is_none() {
        "Choose a target"
    } else {
        "Esc denies"
    };
    typesetter.draw(
        &mut pixmap,
        hint,
        style(12, false, Colour::rgb(0x0077_7f8a)),
        field(MARGIN, buttons_y, first - MARGIN - 8, BUTTON.1),
    );
    let on_output = |(x, y): (i32, i32), size: (i32, i32)| Rect {
        x: place.x + x,
        y: place.y + y,
        w: size.0,
        h: size.1,
    };
    let layout = Layout {
        place,
        buttons: buttons.map(|(which, at)| (which, on_output((at.x, at.y), (at.w, at.h)))),
        rows: rows
            .into_iter()
            .map(|(index, y)| (index, on_output((MARGIN, y), (inner, ROW))))
            .collect(),
    };
    (Picture::new(&pixmap, true), layout)
}

/// The band in the calling VM's colour, with its name.
fn header(pixmap: &mut Pixmap, typesetter: &mut Typesetter, question: &Question, width: i32) {
    let colour = Colour::from(question.source.label);
    rectangle(
        pixmap,
        (EDGE, EDGE, width - 2 * EDGE, HEADER - EDGE),
        colour,
    );
    let ink = colour.readable_on();
    let name = format!("[{}]", question.source.name);
    let used = typesetter.draw(
        pixmap,
        &name,
        style(16, true, ink),
        field(MARGIN, EDGE, width / 2, HEADER - EDGE),
    );
    let x = MARGIN + used + 10;
    typesetter.draw(
        pixmap,
        "asks to run a service in another VM",
        style(14, false, ink),
        field(x, EDGE, width - x - MARGIN, HEADER - EDGE),
    );
}

/// The targets around the selected one; answers index and top of each row.
fn draw_rows(
    pixmap: &mut Pixmap,
    typesetter: &mut Typesetter,
    shown: &Drawn,
    (top, width): (i32, i32),
) -> Vec<(usize, i32)> {
    let targets = &shown.question.targets;
    let first = shown
        .selected
        .unwrap_or(0)
        .saturating_sub(VISIBLE - 1)
        .min(targets.len().saturating_sub(1));
    let mut rows = Vec::new();
    let mut y = top;
    for (index, target) in targets.iter().enumerate().skip(first).take(VISIBLE) {
        let selected = shown.selected == Some(index);
        if selected {
            rounded(
                pixmap,
                (MARGIN, y + 1, width, ROW - 2),
                4.0,
                theme::PROMPT_SELECTION,
            );
        }
        let chip = 14;
        let chip_y = y + (ROW - chip) / 2;
        rounded(
            pixmap,
            (MARGIN + 9, chip_y - 1, chip + 2, chip + 2),
            4.0,
            theme::PROMPT_TEXT,
        );
        rounded(
            pixmap,
            (MARGIN + 10, chip_y, chip, chip),
            3.5,
            target.label.into(),
        );
        typesetter.draw(
            pixmap,
            &target.name,
            style(14, selected, theme::PROMPT_TEXT),
            field(MARGIN + 36, y, width - 44, ROW),
        );
        rows.push((index, y));
        y += ROW;
    }
    rows
}

fn button(
    pixmap: &mut Pixmap,
    typesetter: &mut Typesetter,
    Rect { x, y, w, h }: Rect,
    (text, enabled, focused): (&str, bool, bool),
) {
    let line = if focused {
        theme::PROMPT_FOCUS
    } else {
        theme::PROMPT_LINE
    };
    let edge = if focused { 2 } else { 1 };
    rounded(pixmap, (x, y, w, h), 6.0, line);
    rounded(
        pixmap,
        (x + edge, y + edge, w - 2 * edge, h - 2 * edge),
        5.0,
        if enabled {
            theme::WHITE
        } else {
            theme::PROMPT_GROUND
        },
    );
    let ink = if enabled {
        theme::PROMPT_TEXT
    } else {
        Colour::rgb(0x00a8_aeb8)
    };
    let style = style(14, true, ink);
    let width = typesetter.width(text, style);
    typesetter.draw(pixmap, text, style, field(x + (w - width) / 2, y, w, h));
}
