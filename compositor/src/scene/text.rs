//! Lines of text in the host's one font, or in the built-in glyphs when the font is missing.
//!
//! Draws only text that is the host's own or has passed [`super::sanitise`].

use std::path::Path;

use cosmic_text::{
    Attrs, Buffer, Color, Family, FontSystem, Metrics, Shaping, SwashCache, Weight, Wrap,
};
use tiny_skia::{Pixmap, PremultipliedColorU8};

use super::glyphs;
use crate::theme::Colour;

/// Where the font is looked for. Debian's fonts-dejavu-core.
const FONTS: [&str; 2] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
];

/// How a line looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Height of the letters' em square in pixels.
    pub(crate) size: u8,
    pub(crate) bold: bool,
    pub(crate) colour: Colour,
}

/// A box that a line is drawn into: cut at the right with an ellipsis, centred vertically.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) w: i32,
    pub(crate) h: i32,
}

/// Draws lines.
pub(crate) struct Typesetter {
    font: Option<(FontSystem, SwashCache)>,
}

impl std::fmt::Debug for Typesetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Typesetter")
            .field("font", &self.font.is_some())
            .finish()
    }
}

impl Typesetter {
    /// With the font, if it is installed.
    pub(crate) fn new() -> Self {
        Self::with_fonts(&FONTS.map(Path::new))
    }

    fn with_fonts(paths: &[&Path]) -> Self {
        let mut db = cosmic_text::fontdb::Database::new();
        for path in paths {
            if let Err(error) = db.load_font_file(path) {
                tracing::warn!(path = %path.display(), %error, "font missing, built-in glyphs are used");
            }
        }
        let font = (!db.is_empty()).then(|| {
            (
                FontSystem::new_with_locale_and_db("en-US".to_owned(), db),
                SwashCache::new(),
            )
        });
        Self { font }
    }

    /// Width of a line in pixels.
    pub(crate) fn width(&mut self, text: &str, style: Style) -> i32 {
        let Some((fonts, _)) = &mut self.font else {
            return glyphs::width(text, style.size);
        };
        whole(line_width(&shape(fonts, text, style)))
    }

    /// The text, cut with an ellipsis so that it fits.
    pub(crate) fn fitted(&mut self, text: &str, style: Style, width: i32) -> String {
        if self.width(text, style) <= width {
            return text.to_owned();
        }
        let scalars: Vec<char> = text.chars().collect();
        let (mut fits, mut too_long) = (0, scalars.len());
        while too_long - fits > 1 {
            let middle = usize::midpoint(fits, too_long);
            let cut: String = scalars.iter().take(middle).chain(['…'].iter()).collect();
            if self.width(&cut, style) <= width {
                fits = middle;
            } else {
                too_long = middle;
            }
        }
        scalars.iter().take(fits).chain(['…'].iter()).collect()
    }

    /// Draws a line at the left of a field; answers its width.
    pub(crate) fn draw(
        &mut self,
        pixmap: &mut Pixmap,
        text: &str,
        style: Style,
        field: Field,
    ) -> i32 {
        let text = self.fitted(text, style, field.w);
        let Some((fonts, cache)) = &mut self.font else {
            let y = field.y + (field.h - glyphs::height(style.size)) / 2;
            return glyphs::draw(&text, style.size, |x, dy| {
                blend(pixmap, field.x + x, y + dy, style.colour, 255);
            });
        };
        let buffer = shape(fonts, &text, style);
        let width = whole(line_width(&buffer));
        let top = field.y + (field.h - line_height(style)) / 2;
        let Colour { r, g, b } = style.colour;
        buffer.layout_runs().for_each(|run| {
            for glyph in run.glyphs {
                let physical = glyph.physical((0.0, run.line_y), 1.0);
                cache.with_pixels(
                    fonts,
                    physical.cache_key,
                    Color::rgb(r, g, b),
                    |x, y, colour| {
                        let place = (field.x + physical.x + x, top + physical.y + y);
                        blend(pixmap, place.0, place.1, style.colour, colour.a());
                    },
                );
            }
        });
        width
    }
}

fn line_height(style: Style) -> i32 {
    i32::from(style.size) * 5 / 4
}

fn shape(fonts: &mut FontSystem, text: &str, style: Style) -> Buffer {
    let size = f32::from(style.size);
    let mut buffer = Buffer::new(fonts, Metrics::new(size, size * 1.25));
    let weight = if style.bold {
        Weight::BOLD
    } else {
        Weight::NORMAL
    };
    let attrs = Attrs::new()
        .family(Family::Name("DejaVu Sans"))
        .weight(weight);
    buffer.set_wrap(Wrap::None);
    buffer.set_size(None, None);
    buffer.set_text(text, &attrs, Shaping::Basic, None);
    buffer.shape_until_scroll(fonts, false);
    buffer
}

fn line_width(buffer: &Buffer) -> f32 {
    buffer
        .layout_runs()
        .map(|run| run.line_w)
        .fold(0.0, f32::max)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a line of at most a few hundred glyphs; the cast saturates"
)]
fn whole(width: f32) -> i32 {
    width.ceil() as i32
}

/// Puts a colour over a pixel.
fn blend(pixmap: &mut Pixmap, x: i32, y: i32, colour: Colour, alpha: u8) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else {
        return;
    };
    if x >= pixmap.width() || y >= pixmap.height() {
        return;
    }
    let width = pixmap.width();
    let place = usize::try_from(u64::from(y) * u64::from(width) + u64::from(x));
    let Some(pixel) = place
        .ok()
        .and_then(|place| pixmap.pixels_mut().get_mut(place))
    else {
        return;
    };
    let over = |under: u8, over: u8| {
        let sum = u16::from(over) * u16::from(alpha) + u16::from(under) * (255 - u16::from(alpha));
        u8::try_from((sum + 127) / 255).unwrap_or(u8::MAX)
    };
    let a = over(pixel.alpha(), 255);
    let mixed = PremultipliedColorU8::from_rgba(
        over(pixel.red(), colour.r).min(a),
        over(pixel.green(), colour.g).min(a),
        over(pixel.blue(), colour.b).min(a),
        a,
    );
    if let Some(mixed) = mixed {
        *pixel = mixed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::theme::BLACK;

    const STYLE: Style = Style {
        size: 13,
        bold: false,
        colour: BLACK,
    };

    /// With the font or without it, text leaves ink inside its field and nowhere else.
    #[test]
    fn text_stays_in_its_field() {
        for mut typesetter in [Typesetter::new(), Typesetter::with_fonts(&[])] {
            let mut pixmap = Pixmap::new(200, 40).unwrap();
            let field = Field {
                x: 20,
                y: 8,
                w: 100,
                h: 24,
            };
            let width = typesetter.draw(&mut pixmap, &"Wide gypsy ".repeat(12), STYLE, field);
            assert!((60..=100).contains(&width), "{width}");
            let ink: Vec<(u32, u32)> = (0..40)
                .flat_map(|y| (0..200).map(move |x| (x, y)))
                .filter(|&(x, y)| pixmap.pixel(x, y).is_some_and(|p| p.alpha() > 0))
                .collect();
            assert!(ink.len() > 100);
            assert!(
                ink.iter()
                    .all(|(x, y)| (19..=121).contains(x) && (8..32).contains(y))
            );
        }
    }
}
