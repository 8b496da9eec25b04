//! What a supervisor may ask of a running vmm, and what a vmm reports.

use serde::{Deserialize, Serialize};

use casemate_vm::Mebibytes;

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
    /// Plays the guest's sound to the socket that comes with the message, in place of the one before: a mixer was started
    /// anew. Refused with [`Event::Failed`] by a VM without a sound card. Legal in [`Phase::Running`] and
    /// [`Phase::Paused`].
    AttachSpeaker,
    /// Lets the guest record from the socket that comes with the message, in place of any before. The guest sees a
    /// microphone plugged in. Refused with [`Event::Failed`] by a VM whose card cannot record. Legal in
    /// [`Phase::Running`] and [`Phase::Paused`]. Not part of a snapshot.
    GrantRecording,
    /// Takes the grant back: the socket is closed, and from then on the guest records silence. Answered by
    /// [`Event::State`] when nothing more of it can reach the guest. The granter also closes the mixer's end, because a vmm
    /// may be the guest's by now. Legal always; without a grant it changes nothing and is answered alike.
    RevokeRecording,
    /// Presses the power button: the guest's systemd powers off in its own time. Legal in [`Phase::Running`].
    PowerButton,
    /// Plugs a raw disk in; its only descriptor comes with the message. Answered by [`Event::DeviceAdded`] when the
    /// guest has been told, or by [`Event::Failed`]. Legal in [`Phase::Running`] and [`Phase::Paused`], where the guest
    /// looks when it is resumed; not in [`Phase::Stopped`]. Overlays are for the start only.
    AddDisk {
        /// The virtio-blk serial that the guest reads, at most 20 bytes. It names the disk to the guest only.
        serial: String,
        /// Whether the guest may only read.
        read_only: bool,
    },
    /// Asks the guest to give back what was plugged into a slot. [`Event::DeviceRemoved`] comes when it has, which it
    /// does in its own time or never; asking again reminds it. [`Event::Failed`] when nothing was plugged in there.
    /// Legal in [`Phase::Running`] and [`Phase::Paused`].
    RemoveDevice {
        /// The slot that [`Event::DeviceAdded`] named.
        slot: u8,
    },
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
    /// Writes the numbers of the pages that the guest and its devices have changed since the VM was restored into the empty
    /// file whose descriptor comes with the message, for [`crate::Restore::working_set`]. Answered by [`Event::State`], or by
    /// [`Event::Failed`] when the VM was booted or has changed more than a set holds. Legal in [`Phase::Running`] and
    /// [`Phase::Paused`].
    SaveWorkingSet,
    /// Asks the guest to give so much of its memory back in all; less than before lets it have some again. It does so
    /// as far as it can, in its own time. Answered by [`Event::Balloon`], or by [`Event::Failed`] without a balloon or
    /// for more than the guest has. Legal in [`Phase::Running`] and [`Phase::Paused`], where the guest hears of it when
    /// it is resumed.
    SetBalloon {
        /// What the guest shall have given.
        target: Mebibytes,
    },
    /// Asks the guest to name each free page once, whose memory is given back then; for instance before a snapshot. The
    /// round has ended when [`Event::Balloon`] counts one more. Answered and legal as [`Action::SetBalloon`].
    HintFreePages,
    /// Asks how much memory the guest gave back. Answered as [`Action::SetBalloon`]; legal always.
    AskBalloon,
    /// Ends the process at once. Legal always.
    Kill,
}

/// What the vmm reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// Sent on connection and in answer to [`Action::Ping`], [`Action::Pause`], [`Action::Resume`],
    /// [`Action::Snapshot`], [`Action::SaveWorkingSet`] and [`Action::RevokeRecording`].
    State {
        /// Where the vmm is in its life.
        phase: Phase,
        /// Process id in the vmm's own pid namespace is meaningless outside; this one is the host's, when known.
        pid: Option<u32>,
    },
    /// What the guest gave back, in answer to the actions on its balloon.
    Balloon {
        /// What it was asked for.
        target: Mebibytes,
        /// What it says it gave for that: only a number of the guest's.
        actual: Mebibytes,
        /// What was given back to the host since the start, by any of the ways; it may have been used again.
        given: Mebibytes,
        /// Rounds of [`Action::HintFreePages`] that the guest has ended.
        rounds: u32,
    },
    /// A device is on the bus and the guest has been told.
    DeviceAdded {
        /// PCI slot, 1 to 31.
        slot: u8,
        /// The serial of [`Action::AddDisk`].
        serial: String,
    },
    /// The guest gave a device back: its files are closed, or are about to be as soon as the disk has answered.
    DeviceRemoved {
        /// PCI slot.
        slot: u8,
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
