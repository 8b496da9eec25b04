//! What a vmm is started with: sizes, and the numbers of inherited descriptors. Never a path.

use casemate_vm::{Mebibytes, VmId, VmName};
use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::{LinkKind, Restore};

/// Everything a VM is built from. Written once by the supervisor, read once by the vmm before it jails itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// For logs and for the process title.
    pub name: VmName,
    /// The guest's vsock CID.
    pub id: VmId,
    /// Guest memory.
    pub memory: Mebibytes,
    /// Number of vCPUs, 1 to 8.
    pub vcpus: u8,
    /// Kernel command line; the vmm appends nothing but the console.
    pub cmdline: String,
    /// Descriptor of the ELF kernel with a PVH note, read-only. Not looked at with [`Launch::restore`].
    pub kernel: i32,
    /// Descriptor of the initrd, read-only. Not looked at with [`Launch::restore`].
    pub initrd: i32,
    /// Go on from a snapshot instead of booting. Memory, vCPUs, and number and order of devices have to be those of the VM
    /// that was saved, and its disks as they were at that moment; everything else may be another.
    #[serde(default)]
    pub restore: Option<Restore>,
    /// Block devices in guest order (vda, vdb, ...).
    pub disks: Vec<Disk>,
    /// Network devices in guest order; none is the default.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Whether the guest has a balloon, to give memory back by itself and when asked.
    #[serde(default)]
    pub balloon: bool,
    /// Descriptor of the window memory: a sealed memfd, a power of two and a multiple of 1 MiB long.
    pub window_memory: Option<i32>,
    /// Descriptor of the console log, read-write; its format is [`crate::ring_log`].
    pub console_log: i32,
    /// Descriptor of the bound, listening control socket (`SOCK_SEQPACKET`).
    pub control: i32,
    /// Links that exist from the start; more come with [`crate::Action::AttachLink`].
    pub links: Vec<LaunchLink>,
    /// Descriptor of `/dev/kvm`, or absent for the vmm to open it itself before it jails itself.
    pub kvm: Option<i32>,
}

/// One block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The virtio-blk serial that the guest reads (`root`, `private`), at most 20 bytes.
    pub serial: String,
    /// Whether the guest may write.
    pub read_only: bool,
    /// What the bytes are. Explicit, never sniffed.
    pub format: DiskFormat,
}

/// What the bytes of a disk are, and the descriptors that hold them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum DiskFormat {
    /// The file is the disk.
    Raw {
        /// Its descriptor.
        file: i32,
    },
    /// A qcow2 overlay; its header's backing file name is ignored, the base is the raw descriptor given here.
    Overlay {
        /// Descriptor of the qcow2 file, read-write.
        file: i32,
        /// Descriptor of the raw base image, read-only.
        base: i32,
    },
}

/// A link to a service that exists at launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchLink {
    /// Which service is at the other end.
    pub kind: LinkKind,
    /// The vmm's end.
    pub file: i32,
}
