//! Sizes and colours of everything that the host draws. A guest can change none of them.

use casemate_vm::Label;

/// Width of a toplevel's border on each side, in the label's exact colour.
pub(crate) const BORDER: i32 = 4;
/// Height of the title bar, inside the border.
pub(crate) const TITLE: i32 = 24;
/// Width of a popup's border.
pub(crate) const POPUP_BORDER: i32 = 2;
/// Width of the neutral line around a frame that keeps frames of one colour apart.
pub(crate) const RING: i32 = 1;
/// Height of the trusted strip at the top of the output.
pub(crate) const PANEL: i32 = 24;
/// Smallest inner width of a frame: a 1 x 1 window still has a title bar that can be read and grabbed.
pub(crate) const MIN_INNER_WIDTH: i32 = 128;
/// Smallest inner height of a frame below its title bar.
pub(crate) const MIN_INNER_HEIGHT: i32 = 8;
/// Side of the square of a frame that is always kept on the output.
pub(crate) const GRAB: i32 = 32;

/// A colour, opaque, 8 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Colour {
    pub(crate) r: u8,
    pub(crate) g: u8,
    pub(crate) b: u8,
}

impl Colour {
    pub(crate) const fn rgb(rgb: u32) -> Self {
        let [_, r, g, b] = rgb.to_be_bytes();
        Self { r, g, b }
    }

    /// This colour with `percent` of another mixed in.
    pub(crate) fn mixed(self, other: Self, percent: u16) -> Self {
        let mix = |a: u8, b: u8| {
            let sum = u16::from(a) * (100 - percent.min(100)) + u16::from(b) * percent.min(100);
            u8::try_from(sum / 100).unwrap_or(u8::MAX)
        };
        Self {
            r: mix(self.r, other.r),
            g: mix(self.g, other.g),
            b: mix(self.b, other.b),
        }
    }

    /// Perceived brightness, 0 to 255.
    fn brightness(self) -> u32 {
        (u32::from(self.r) * 299 + u32::from(self.g) * 587 + u32::from(self.b) * 114) / 1000
    }

    /// Black or white, whichever can be read on this colour.
    pub(crate) fn readable_on(self) -> Self {
        if self.brightness() > 140 {
            BLACK
        } else {
            WHITE
        }
    }
}

impl From<Label> for Colour {
    fn from(label: Label) -> Self {
        Self::rgb(label.rgb())
    }
}

pub(crate) const BLACK: Colour = Colour::rgb(0x0000_0000);
pub(crate) const WHITE: Colour = Colour::rgb(0x00ff_ffff);
/// Behind all windows.
pub(crate) const DESKTOP: Colour = Colour::rgb(0x0028_2f3a);
/// The trusted strip.
pub(crate) const PANEL_GROUND: Colour = Colour::rgb(0x0014_171c);
/// Text of the host on dark ground.
pub(crate) const PANEL_TEXT: Colour = Colour::rgb(0x00e6_e9ee);
/// Less important text.
pub(crate) const FAINT_TEXT: Colour = Colour::rgb(0x009a_a3b0);
/// The line around frames.
pub(crate) const RING_COLOUR: Colour = Colour::rgb(0x000e_1014);
/// The line around frames of the black label, which a dark line would hide.
pub(crate) const RING_COLOUR_ON_BLACK: Colour = Colour::rgb(0x0080_8890);
/// Ground of prompts.
pub(crate) const PROMPT_GROUND: Colour = Colour::rgb(0x00f4_f5f7);
/// Text of prompts.
pub(crate) const PROMPT_TEXT: Colour = Colour::rgb(0x001c_2026);
/// Lines and inactive buttons of prompts.
pub(crate) const PROMPT_LINE: Colour = Colour::rgb(0x00c9_ced6);
/// Selection in prompts.
pub(crate) const PROMPT_SELECTION: Colour = Colour::rgb(0x00dc_e6f5);
/// What marks the keyboard's place in prompts.
pub(crate) const PROMPT_FOCUS: Colour = Colour::rgb(0x0026_5fbd);
