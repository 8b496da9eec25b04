//! Descriptors that the supervisor left open for us: the numbers in `Launch` become owned descriptors, all others
//! are closed. The only place that takes a descriptor by its number.
#![expect(
    unsafe_code,
    reason = "descriptor numbers come from the process that started us"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use casemate_devices::net::Wire;
use casemate_link::PacketSocket;
use casemate_vmm_control::{
    self as control, Disk, DiskFormat, Launch, LinkKind, MAX_LAUNCH, MacAddress, Network, Sound,
    WireFile, decode,
};
use kvm_ioctls::Kvm;
use rustix::io::FdFlags;

use crate::snapshot::{self, Saved};
use crate::vfio::Assigned;

/// Number of the first descriptor that is not standard input, output or error.
const FIRST: RawFd = 3;

/// Room for a launch description as most are, in bytes.
const USUAL_LAUNCH: usize = 4096;

/// What a disk's bytes are in.
#[derive(Debug)]
pub(crate) enum DiskFiles {
    /// The file is the disk.
    Raw(OwnedFd),
    /// A qcow2 overlay over a raw base.
    Overlay {
        /// The overlay.
        file: OwnedFd,
        /// The base.
        base: OwnedFd,
    },
}

/// One disk.
#[derive(Debug)]
pub(crate) struct InheritedDisk {
    /// What the guest reads as its serial.
    pub(crate) serial: String,
    /// Whether the guest may write.
    pub(crate) read_only: bool,
    /// Its files.
    pub(crate) files: DiskFiles,
}

/// A sound card.
#[derive(Debug)]
pub(crate) struct InheritedSound {
    /// Where it plays to.
    pub(crate) speaker: Option<OwnedFd>,
    /// Whether the guest sees a stream to record.
    pub(crate) can_record: bool,
}

/// What a VM begins with.
#[derive(Debug)]
pub(crate) enum Begin {
    /// A kernel.
    Boot {
        /// Its image.
        kernel: OwnedFd,
        /// Its initrd.
        initrd: OwnedFd,
    },
    /// A snapshot.
    Restore(Saved),
}

/// Every descriptor of a VM, by name.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) begin: Begin,
    pub(crate) disks: Vec<InheritedDisk>,
    pub(crate) networks: Vec<(MacAddress, Wire)>,
    pub(crate) sound: Option<InheritedSound>,
    pub(crate) assigned: Option<Assigned>,
    pub(crate) window_memory: Option<OwnedFd>,
    pub(crate) console_log: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) links: Vec<(LinkKind, PacketSocket)>,
    /// `/dev/kvm`, when it was inherited.
    pub(crate) kvm: Option<OwnedFd>,
}

/// Reads the launch description from its descriptor, from the start if it can be rewound, and closes it.
pub(crate) fn read_launch(number: RawFd) -> Result<Launch> {
    let mut file = File::from(Claims::default().take(number, "launch description")?);
    // A pipe cannot be rewound, and is at its start.
    let _ = file.rewind();
    let mut bytes = Vec::with_capacity(USUAL_LAUNCH);
    let limit = u64::try_from(MAX_LAUNCH)? + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .context("cannot read the launch description")?;
    let launch: Launch =
        decode(&bytes, MAX_LAUNCH).context("the launch description is malformed")?;
    launch.check()?;
    Ok(launch)
}

impl Inherited {
    /// Takes everything that `launch` names and closes every other descriptor of the process.
    ///
    /// # Errors
    /// When a number is named twice, is a standard stream or is not open.
    pub(crate) fn claim(launch: &Launch) -> Result<Self> {
        let mut claims = Claims::default();
        let inherited = Self {
            begin: claims.begin(launch)?,
            disks: launch
                .disks
                .iter()
                .map(|disk| claims.disk(disk))
                .collect::<Result<_>>()?,
            networks: launch
                .networks
                .iter()
                .map(|network| claims.network(network))
                .collect::<Result<_>>()?,
            sound: launch
                .sound
                .as_ref()
                .map(|sound| claims.sound(sound))
                .transpose()?,
            assigned: launch
                .assigned
                .as_ref()
                .map(|assigned| claims.assigned(assigned))
                .transpose()?,
            window_memory: launch
                .window_memory
                .map(|number| claims.take(number, "window memory"))
                .transpose()?,
            console_log: claims.take(launch.console_log, "console log")?,
            control: claims.take(launch.control, "control socket")?,
            links: launch
                .links
                .iter()
                .map(|link| Ok((link.kind, claims.take(link.file, "link")?.into())))
                .collect::<Result<_>>()?,
            kvm: launch
                .kvm
                .map(|number| claims.take(number, "KVM device"))
                .transpose()?,
        };
        claims.close_others().context("cannot close descriptors")?;
        Ok(inherited)
    }
}

/// Numbers taken so far.
#[derive(Default)]
struct Claims(BTreeSet<RawFd>);

impl Claims {
    fn take(&mut self, number: RawFd, what: &str) -> Result<OwnedFd> {
        if number < FIRST || !self.0.insert(number) {
            bail!("descriptor {number} of the {what} is a standard stream or was named twice");
        }
        // SAFETY: the number is only borrowed for one call that fails cleanly when it is not open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)
            .with_context(|| format!("descriptor {number} of the {what} is not open"))?;
        // SAFETY: it is open, and this program, still single-threaded, has opened nothing that it could be: it comes
        // from our parent, which gave it to us. No number is taken twice.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    fn begin(&mut self, launch: &Launch) -> Result<Begin> {
        let Some(restore) = &launch.restore else {
            return Ok(Begin::Boot {
                kernel: self.take(launch.kernel, "kernel")?,
                initrd: self.take(launch.initrd, "initrd")?,
            });
        };
        let memory = self.take(restore.memory, "memory file")?;
        snapshot::ram::check_immutable(&memory)?;
        Ok(Begin::Restore(Saved {
            state: self.take(restore.state, "state file")?,
            memory: File::from(memory),
            key: *restore.key.bytes(),
            vm: restore.taken_from.0,
            working_set: restore
                .working_set
                .map(|number| self.take(number, "working set"))
                .transpose()?,
        }))
    }

    fn disk(&mut self, disk: &Disk) -> Result<InheritedDisk> {
        let files = match disk.format {
            DiskFormat::Raw { file } => DiskFiles::Raw(self.take(file, "disk")?),
            DiskFormat::Overlay { file, base } => DiskFiles::Overlay {
                file: self.take(file, "disk overlay")?,
                base: self.take(base, "disk base")?,
            },
        };
        Ok(InheritedDisk {
            serial: disk.serial.clone(),
            read_only: disk.read_only,
            files,
        })
    }

    fn assigned(&mut self, assigned: &control::Assigned) -> Result<Assigned> {
        Ok(Assigned {
            container: self.take(assigned.container, "VFIO container")?,
            groups: assigned
                .groups
                .iter()
                .map(|group| Ok((self.take(group.file, "IOMMU group")?, group.devices.clone())))
                .collect::<Result<_>>()?,
        })
    }

    fn sound(&mut self, sound: &Sound) -> Result<InheritedSound> {
        Ok(InheritedSound {
            speaker: sound
                .speaker
                .map(|number| self.take(number, "speaker"))
                .transpose()?,
            can_record: sound.can_record,
        })
    }

    fn network(&mut self, network: &Network) -> Result<(MacAddress, Wire)> {
        let wire = match network.wire {
            WireFile::Cable { file } => Wire::cable(self.take(file, "network cable")?),
            WireFile::Stream { file } => Wire::stream(self.take(file, "network stream")?),
            WireFile::Tap { file } => {
                Wire::tap(self.take(file, "tap device")?).context("cannot use the tap device")?
            }
        };
        Ok((network.mac, wire))
    }

    /// Closes whatever else the parent left open, known to it or not.
    fn close_others(&self) -> io::Result<()> {
        let mut from = FIRST;
        for number in self.0.iter().copied().chain([RawFd::MAX]) {
            if from < number {
                // SAFETY: no descriptor in this range has an owner in this process: it is called before anything
                // else is opened, and the launch description was closed after reading.
                let result = unsafe {
                    libc::close_range(from.cast_unsigned(), (number - 1).cast_unsigned(), 0)
                };
                if result != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            from = number.saturating_add(1);
        }
        Ok(())
    }
}

/// The KVM device as kvm-ioctls wants it.
pub(crate) fn kvm(device: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is owned and given away. That it is KVM is checked by its first ioctl.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// Length of a file in bytes.
pub(crate) fn len(file: &OwnedFd) -> io::Result<u64> {
    let stat = rustix::fs::fstat(file)?;
    u64::try_from(stat.st_size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Whether somebody waits for the end of this stream: a pipe or a socket, not a file or a terminal.
pub(crate) fn has_reader(stream: impl AsFd) -> bool {
    rustix::fs::fstat(stream).is_ok_and(|stat| {
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        kind.is_fifo() || kind.is_socket()
    })
}
