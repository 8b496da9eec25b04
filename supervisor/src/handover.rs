//! What a vmm inherits: the launch description, and every descriptor that it names, under the number that it names.

use std::{fs::File, os::fd::OwnedFd};

use casemate_vm::{InvalidMachine, VmClass, VmId, VmName, VmSpec};
use casemate_vmm_control::{
    CpuModel, Disk, DiskFormat, KernelFormat, Launch, LaunchLink, LinkKind, Restore, SnapshotKey,
    Sound,
};
use command_fds::FdMapping;

use crate::volumes::StartVolumes;

/// The vmm's ends of what joins it to the rest of the house.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) window_memory: OwnedFd,
    pub(crate) console_log: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) broker: OwnedFd,
    pub(crate) compositor: OwnedFd,
}

/// What a VM goes on from instead of booting.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) state: File,
    /// Read-only.
    pub(crate) memory: File,
    pub(crate) working_set: Option<File>,
    pub(crate) key: SnapshotKey,
    /// The VM that was saved.
    pub(crate) taken_from: VmId,
}

/// Descriptors with the numbers that they will have in the child.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(Vec<FdMapping>);

impl Descriptors {
    /// High, so that no number of the child is one that the standard library holds between fork and exec for telling
    /// us why exec failed: that telling would land in a VM's volume. Below the usual limit of 1024.
    const FIRST: i32 = 700;

    /// Takes a descriptor along; the number under which the child will find `file`.
    fn add(&mut self, file: impl Into<OwnedFd>) -> i32 {
        let last = self
            .0
            .last()
            .map_or(Self::FIRST - 1, |mapping| mapping.child_fd);
        let child_fd = last + 1;
        self.0.push(FdMapping {
            parent_fd: file.into(),
            child_fd,
        });
        child_fd
    }

    /// Adds the launch description itself, and returns its number and everything.
    pub(crate) fn finish(mut self, description: OwnedFd) -> (i32, Vec<FdMapping>) {
        let number = self.add(description);
        (number, self.0)
    }
}

/// Describes one VM.
///
/// # Errors
/// When its definition asks for a machine that there is not.
pub(crate) fn describe(
    name: &VmName,
    id: VmId,
    spec: &VmSpec,
    volumes: StartVolumes,
    frozen: Option<Frozen>,
    ends: Ends,
) -> Result<(Launch, Descriptors), InvalidMachine> {
    let mut files = Descriptors::default();
    let launch = Launch {
        name: name.clone(),
        id,
        class: VmClass::Cloneable,
        memory: spec.memory_mib.try_into()?,
        vcpus: spec.vcpus.try_into()?,
        cpu: CpuModel::Host,
        cmdline: format!("{} casemate.name={name}", volumes.cmdline),
        kernel: files.add(volumes.kernel),
        kernel_format: KernelFormat::Elf,
        initrd: files.add(volumes.initrd),
        disks: vec![
            Disk {
                serial: "root".to_owned(),
                read_only: false,
                format: DiskFormat::Overlay {
                    file: files.add(volumes.overlay),
                    base: files.add(volumes.base),
                },
            },
            Disk {
                serial: "private".to_owned(),
                read_only: false,
                format: DiskFormat::Raw {
                    file: files.add(volumes.private),
                },
            },
        ],
        window_memory: Some(files.add(ends.window_memory)),
        console_log: files.add(ends.console_log),
        control: files.add(ends.control),
        networks: Vec::new(),
        balloon: true,
        // The speaker comes when the VM runs, from a mixer that may be another one each time.
        sound: spec.audio.then_some(Sound {
            speaker: None,
            can_record: true,
        }),
        restore: frozen.map(|frozen| Restore {
            state: files.add(frozen.state),
            memory: files.add(frozen.memory),
            working_set: frozen.working_set.map(|file| files.add(file)),
            key: frozen.key,
            taken_from: frozen.taken_from,
        }),
        assigned: None,
        links: vec![
            LaunchLink {
                kind: LinkKind::Rpc,
                file: files.add(ends.broker),
            },
            LaunchLink {
                kind: LinkKind::Windows,
                file: files.add(ends.compositor),
            },
        ],
        kvm: None,
    };
    Ok((launch, files))
}
