//! What a vmm is started with: sizes, and the numbers of inherited descriptors. Never a path.

use casemate_vm::{PciAddress, RamSize, VcpuCount, VmClass, VmId, VmName};
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
    /// What the VM can be.
    #[serde(default)]
    pub class: VmClass,
    /// Guest memory.
    pub memory: RamSize,
    /// Number of vCPUs.
    pub vcpus: VcpuCount,
    /// What the vCPUs say they are.
    #[serde(default)]
    pub cpu: CpuModel,
    /// Kernel command line; the vmm appends nothing but the console.
    pub cmdline: String,
    /// Descriptor of the kernel, read-only. Not looked at with [`Launch::restore`].
    pub kernel: i32,
    /// What kind of image the kernel is. Explicit, never sniffed.
    #[serde(default)]
    pub kernel_format: KernelFormat,
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
    /// The sound card; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<Sound>,
    /// PCI devices of the host; only with [`VmClass::Passthrough`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Assigned>,
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

/// A description whose parts exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLaunch {
    /// A device writes to memory that the balloon has given away.
    #[error("a passthrough VM has no balloon: its devices need all of its memory")]
    BalloonWithDevices,
    /// A VM that may be copied has nothing that there is only once.
    #[error("a cloneable VM has no host devices: make it a passthrough VM")]
    DevicesOfCloneable,
    /// There is no snapshot of such a VM.
    #[error("a passthrough VM boots: it cannot be restored")]
    RestoreOfPassthrough,
}

impl Launch {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// [`InvalidLaunch`].
    pub fn check(&self) -> Result<(), InvalidLaunch> {
        match self.class {
            VmClass::Passthrough if self.balloon => Err(InvalidLaunch::BalloonWithDevices),
            VmClass::Passthrough if self.restore.is_some() => {
                Err(InvalidLaunch::RestoreOfPassthrough)
            }
            VmClass::Cloneable if self.assigned.is_some() => Err(InvalidLaunch::DevicesOfCloneable),
            VmClass::Passthrough | VmClass::Cloneable => Ok(()),
        }
    }
}

/// A sound card. Its hosts are sockets of the mixer, each of one VM and one direction; they speak `casemate-sound-wire`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sound {
    /// Descriptor of the socket to play to; without one the guest plays into nothing until
    /// [`crate::Action::AttachSpeaker`].
    pub speaker: Option<i32>,
    /// Whether the guest sees that it could record. What it then records is silence but for the time between
    /// [`crate::Action::GrantRecording`] and [`crate::Action::RevokeRecording`].
    #[serde(default)]
    pub can_record: bool,
}

/// PCI devices of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assigned {
    /// Descriptor of `/dev/vfio/vfio`, opened for this VM.
    pub container: i32,
    /// IOMMU groups.
    pub groups: Vec<AssignedGroup>,
}

/// An IOMMU group. The VM has the whole group; a device of it that is not listed is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignedGroup {
    /// Descriptor of `/dev/vfio/NUMBER`.
    pub file: i32,
    /// Devices of it, in guest order.
    pub devices: Vec<PciAddress>,
}

/// CPU models. Both are without nested virtualization and performance counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuModel {
    /// All that KVM offers on this host: the fastest.
    #[default]
    Host,
    /// A fixed list of features under a family, model and name that do not change from host to host.
    Compatible,
}

/// Kinds of kernel images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFormat {
    /// An uncompressed ELF `vmlinux` with a PVH note: the fast way. The kernel lies where it was linked to.
    #[default]
    Elf,
    /// A `bzImage`, which unpacks itself in the guest to an address of its own choice (physical KASLR) and so takes
    /// about half as long again to boot.
    BzImage,
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

#[cfg(test)]
mod tests {
    use casemate_vm::Mebibytes;

    use super::*;

    #[test]
    fn what_excludes_each_other_is_refused() {
        let launch = |class, balloon, devices: bool| Launch {
            name: "a".parse().expect("a name"),
            id: VmId(3),
            class,
            memory: Mebibytes(64).try_into().expect("a size"),
            vcpus: VcpuCount::MIN,
            cpu: CpuModel::Host,
            cmdline: String::new(),
            kernel: 3,
            kernel_format: KernelFormat::Elf,
            initrd: 4,
            restore: None,
            disks: Vec::new(),
            networks: Vec::new(),
            balloon,
            sound: None,
            assigned: devices.then(|| Assigned {
                container: 5,
                groups: Vec::new(),
            }),
            window_memory: None,
            console_log: 6,
            control: 7,
            links: Vec::new(),
            kvm: None,
        };
        let (cloneable, passthrough) = (VmClass::Cloneable, VmClass::Passthrough);
        for (class, balloon, devices, expected) in [
            (cloneable, false, false, Ok(())),
            (cloneable, true, false, Ok(())),
            (
                cloneable,
                false,
                true,
                Err(InvalidLaunch::DevicesOfCloneable),
            ),
            (passthrough, false, false, Ok(())),
            (passthrough, false, true, Ok(())),
            (
                passthrough,
                true,
                true,
                Err(InvalidLaunch::BalloonWithDevices),
            ),
        ] {
            assert_eq!(launch(class, balloon, devices).check(), expected);
        }
    }
}
