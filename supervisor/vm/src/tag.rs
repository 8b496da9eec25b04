//! A word that a person puts on VMs so that policy can speak of all of them: `@tag:WORD`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest tag, in bytes: as much as a VM's name, which it stands beside in lists.
const MAX_TAG: usize = 31;

/// A checked tag: `[a-zA-Z0-9_-]{1,31}`. Case counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot be a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot be a tag: a tag has 1 to {MAX_TAG} letters, digits, '-' and '_'")]
pub struct InvalidTag(String);

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if text.is_empty() || text.len() > MAX_TAG || !text.bytes().all(allowed) {
            return Err(InvalidTag(text.escape_debug().take(64).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Tag {
    type Error = InvalidTag;

    fn try_from(text: String) -> Result<Self, InvalidTag> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_checked() {
        let long = "a".repeat(MAX_TAG + 1);
        for (text, ok) in [
            ("office", true),
            ("9", true),
            ("created-by_dom0", true),
            (&long[1..], true),
            ("", false),
            (&long, false),
            ("a b", false),
            ("@tag:a", false),
            ("a,b", false),
            ("a\n", false),
            ("é", false),
        ] {
            assert_eq!(text.parse::<Tag>().is_ok(), ok, "{text:?}");
        }
    }
}
