//! The name of a VM: what a person types, what policy files name, what title bars show.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest name of a VM, in bytes. Keeps names inside the fixed 32-byte fields of old qrexec frames.
const MAX_NAME: usize = 31;

/// Words that mean something else in policy files or to the host and so can never name a VM.
const RESERVED: &[&str] = &[
    "dom0", "default", "anyvm", "adminvm", "dispvm", "none", "host",
];

/// A checked VM name: `[a-zA-Z][a-zA-Z0-9_-]{0,30}`, not a reserved word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot name a VM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("a VM name cannot be empty")]
    Empty,
    /// Longer than 31 characters.
    #[error("a VM name has at most {MAX_NAME} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside the allowed set, or a first character that is not a letter.
    #[error("a VM name starts with a letter and holds only letters, digits, '-' and '_'")]
    Charset,
    /// One of the words that policy and the host use themselves.
    #[error("'{0}' is a reserved word and cannot name a VM")]
    Reserved(String),
}

impl FromStr for VmName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let Some(first) = text.bytes().next() else {
            return Err(InvalidName::Empty);
        };
        if text.len() > MAX_NAME {
            return Err(InvalidName::TooLong(text.len()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !first.is_ascii_alphabetic() || !text.bytes().all(allowed) {
            return Err(InvalidName::Charset);
        }
        if RESERVED.contains(&text.to_ascii_lowercase().as_str()) {
            return Err(InvalidName::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for VmName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = "a".repeat(MAX_NAME + 1);
        for (text, ok) in [
            ("work", true),
            ("w", true),
            ("disp1234", true),
            ("a-b_C9", true),
            (&long[1..], true),
            ("", false),
            ("9lives", false),
            ("-rf", false),
            ("a/b", false),
            ("a b", false),
            ("a\0b", false),
            ("é", false),
            ("..", false),
            ("dom0", false),
            ("Default", false),
            (&long, false),
        ] {
            assert_eq!(text.parse::<VmName>().is_ok(), ok, "{text:?}");
        }
    }
}
