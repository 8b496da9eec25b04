//! What a VM can be, decided when it is made.

use serde::{Deserialize, Serialize};

/// Two kinds of machine that exclude each other.
///
/// A device that reads and writes memory by itself needs all of it to stay where it is, so such a VM can neither be
/// copied nor give memory back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmClass {
    /// Can be saved, restored and copied, and may have a balloon. Has no host devices.
    #[default]
    Cloneable,
    /// Has host PCI devices. All its memory is pinned; always boots cold.
    Passthrough,
}
