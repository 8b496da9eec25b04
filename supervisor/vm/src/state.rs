//! What a VM is doing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a running VM: its vsock CID and its domain number in qrexec frames.
///
/// Given by the supervisor at start, from 3 upwards (0, 1 and 2 mean other things to vsock), never
/// reused while the supervisor's state directory lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(pub u32);

/// The states of a VM's life; the drawing of who moves where is in the supervisor's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Nothing of it runs.
    Halted,
    /// Volumes are opened, overlays made.
    Preparing,
    /// Its vmm runs, its agent has not reported yet.
    Starting,
    /// Its agent answered; calls can reach it.
    Running,
    /// It was asked to power off.
    Stopping,
    /// Its vmm ended without being asked to. Start it again or read its log.
    Crashed,
}

impl VmState {
    /// The state in one lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Halted => "halted",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
        }
    }

    /// Whether a vmm process exists in this state.
    pub fn has_process(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
