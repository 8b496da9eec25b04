//! The colour of a VM: a trust level in a person's eyes, never chosen by a guest.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The eight labels of Qubes, from least to most trusted in common use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Red: untrusted, and the colour of disposables.
    Red,
    /// Orange.
    Orange,
    /// Yellow.
    Yellow,
    /// Green.
    Green,
    /// Gray.
    Gray,
    /// Blue.
    Blue,
    /// Purple.
    Purple,
    /// Black: the most trusted.
    Black,
}

impl Label {
    /// Every label, in the order in which help texts list them.
    pub const ALL: [Self; 8] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Gray,
        Self::Blue,
        Self::Purple,
        Self::Black,
    ];

    /// The name of the colour, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Gray => "gray",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::Black => "black",
        }
    }

    /// The colour of borders and title bars as 0xRRGGBB.
    pub fn rgb(self) -> u32 {
        match self {
            Self::Red => 0x00cc_0000,
            Self::Orange => 0x00f5_7900,
            Self::Yellow => 0x00ed_d400,
            Self::Green => 0x0073_d216,
            Self::Gray => 0x0055_5753,
            Self::Blue => 0x0034_65a4,
            Self::Purple => 0x0075_507b,
            Self::Black => 0x0000_0000,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is none of the eight labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a label; the labels are red, orange, yellow, green, gray, blue, purple and black"
)]
pub struct UnknownLabel(pub String);

impl FromStr for Label {
    type Err = UnknownLabel;

    fn from_str(text: &str) -> Result<Self, UnknownLabel> {
        Self::ALL
            .into_iter()
            .find(|label| label.as_str() == text)
            .ok_or_else(|| UnknownLabel(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_label_agree() {
        for label in Label::ALL {
            assert_eq!(label.to_string().parse(), Ok(label));
        }
        assert!("Red".parse::<Label>().is_err());
        assert!("".parse::<Label>().is_err());
    }
}
