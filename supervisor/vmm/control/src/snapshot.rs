//! What snapshots need at launch and in an action.

use std::fmt;
use std::str::FromStr;

use casemate_vm::VmId;
use serde::{Deserialize, Serialize};

/// A VM that goes on from a snapshot instead of booting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Descriptor of the state file.
    pub state: i32,
    /// Descriptor of the memory file: opened read-only, or a memfd sealed against writing and shrinking. It is mapped, so
    /// it must stay as it is while the VM lives.
    pub memory: i32,
    /// Descriptor of a file that [`crate::Action::SaveWorkingSet`] has written for another VM of this snapshot: its pages are
    /// given before the guest runs, instead of when it misses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set: Option<i32>,
    /// What the state was sealed with.
    pub key: SnapshotKey,
    /// The VM that was saved. The new one is [`crate::Launch::id`], which may be another.
    pub taken_from: VmId,
}

/// The key that seals snapshots; only the supervisor keeps it. 64 hexadecimal digits in JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotKey([u8; 32]);

/// A text that is no [`SnapshotKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot key has 64 hexadecimal digits")]
pub struct InvalidKey;

impl SnapshotKey {
    /// A key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SnapshotKey {
    /// Never the key: it must not get into a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SnapshotKey(..)")
    }
}

impl FromStr for SnapshotKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(InvalidKey);
        }
        let mut key = [0; 32];
        for (byte, [high, low]) in key.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(key))
    }
}

fn digit(digit: u8) -> Result<u8, InvalidKey> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(InvalidKey),
    }
}

impl TryFrom<String> for SnapshotKey {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SnapshotKey> for String {
    fn from(key: SnapshotKey) -> Self {
        key.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_is_not_shown() {
        let key = SnapshotKey::new(std::array::from_fn(|index| {
            u8::try_from(index * 7 % 251).expect("small")
        }));
        let text = String::from(key.clone());
        assert_eq!(text.parse(), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "SnapshotKey(..)");
        for bad in [
            "",
            "00",
            &text[1..],
            &format!("{text}0"),
            &text.replace('0', "g"),
        ] {
            assert_eq!(bad.parse::<SnapshotKey>(), Err(InvalidKey), "{bad}");
        }
    }
}
