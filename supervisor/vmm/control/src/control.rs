//! What a supervisor may ask of a running vmm, and what a vmm reports.

use serde::{Deserialize, Serialize};

use crate::{LinkKind, SnapshotKey};

/// What the supervisor asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Replaces the link of this kind by the descriptor that comes with the message. Legal in [`Phase::Running`];
    /// offers made over the old link are dropped, established streams live on.
    AttachLink {
        /// Which service.
        kind: LinkKind,
    },
    /// Answered by [`Event::State`]. Legal always; a vmm that does not answer is killed by its supervisor.
    Ping,
    /// Presses the power button: the guest's systemd powers off in its own time. Legal in [`Phase::Running`].
    PowerButton,
    /// Takes all vCPUs out of the guest; answered by [`Event::State`] when they stand still, or by [`Event::Failed`]
    /// when they do not within two seconds, and then they run on. Devices finish what the guest had asked of them.
    /// Legal in [`Phase::Running`]; in [`Phase::Paused`] it changes nothing and is answered alike.
    Pause,
    /// Lets the vCPUs go on, after telling the guest's clock that it stood still; answered by [`Event::State`].
    /// Legal in [`Phase::Paused`]; in [`Phase::Running`] it changes nothing and is answered alike.
    Resume,
    /// Writes a snapshot into the two files whose descriptors come with the message: state first, then memory, both empty
    /// and writable. Answered by [`Event::State`] when all is written, or by [`Event::Failed`], and then the files are
    /// worth nothing; the VM stays paused. Meanwhile nothing else is answered: that takes as long as the memory that the
    /// guest has touched takes to be written. Legal in [`Phase::Paused`].
    Snapshot {
        /// Seals the state.
        key: SnapshotKey,
    },
    /// Ends the process at once. Legal always.
    Kill,
}

/// What the vmm reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// Sent on connection and in answer to [`Action::Ping`], [`Action::Pause`], [`Action::Resume`] and
    /// [`Action::Snapshot`].
    State {
        /// Where the vmm is in its life.
        phase: Phase,
        /// Process id in the vmm's own pid namespace is meaningless outside; this one is the host's, when known.
        pid: Option<u32>,
    },
    /// Sent once before the process ends of its own accord.
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// An action was not legal or failed; the VM goes on.
    Failed {
        /// What went wrong, for the log.
        what: String,
    },
}

/// Phases of a vmm's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// vCPUs run.
    Running,
    /// vCPUs stand still until [`Action::Resume`]; devices and the control socket are served.
    Paused,
    /// The guest stopped; the process is about to end.
    Stopped,
}

/// Why a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset or triple-faulted.
    Reset,
    /// The supervisor asked.
    Killed,
    /// KVM or a device could not go on.
    Error,
}
