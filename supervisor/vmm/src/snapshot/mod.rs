//! Snapshots: a VM that stands still, in two files, and VMs that go on from them.
//!
//! The **state file** has everything but RAM, sealed (see [`header`]); the **memory file** is RAM as it will be mapped
//! (see [`ram`]). Both are descriptors that the supervisor gives; a VM is saved by [`Saver::save`] and begins again with
//! [`read`] and [`Saved`]. What is not in them: window memory, console log, links and what travelled on them, and
//! whatever the supervisor decides anew at each launch: CID, MAC addresses, disks.

pub(crate) mod header;
pub(crate) mod ram;
pub(crate) mod working_set;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use casemate_devices::event_loop::{EventLoop, Held};
use casemate_devices::pci::{ConfigPorts, PciRoot};
use casemate_devices::serial::Serial;
use casemate_devices::state::{FunctionState, SerialState, StateError};
use casemate_devices::virtio::{Memory, VirtioDevice};
use kvm_ioctls::VmFd;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::machine::state::{ChipState, VcpuState, align_tsc, save_chips, save_vcpu};
use crate::machine::{HostId, MachineError};
use crate::vcpu::Vcpus;
use header::{MAX_STATE, Origin, Refused, SnapshotId};
use ram::MemoryFile;
use working_set::{MalformedSet, TooLarge, WorkingSet};

/// How long a disk may take to finish what it does and to write out what it holds back.
const DISK_LIMIT: Duration = Duration::from_secs(10);

/// Room for a state as most are, in bytes.
const USUAL_STATE: usize = 32 * 1024;

/// Identifies the program: a state is only taken by the build that wrote it.
const BUILD: u64 = parse_build(env!("CASEMATE_VMM_BUILD"));

/// The number that the build script wrote.
const fn parse_build(text: &str) -> u64 {
    match u64::from_str_radix(text, 16) {
        Ok(build) => build,
        Err(_) => panic!("the build script writes a number"),
    }
}

/// Everything of a VM but its RAM.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) chips: ChipState,
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) devices: DeviceState,
}

/// Devices that are not KVM's.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeviceState {
    /// In the order of their slots.
    pub(crate) functions: Vec<FunctionState>,
    /// The PCI address port.
    pub(crate) pci_address: u32,
    /// COM1.
    pub(crate) serial: SerialState,
}

/// A snapshot could not be made; the VM stands still as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error("the VM is not paused; pause it first")]
    NotPaused,
    #[error("disk {0} did not finish in time; try again")]
    Disk(usize),
    #[error("disk {0} cannot be written")]
    DiskWrite(usize, #[source] io::Error),
    #[error(transparent)]
    Devices(#[from] StateError),
    #[error(transparent)]
    Kvm(#[from] MachineError),
    #[error("cannot write the snapshot")]
    Write(#[from] io::Error),
    #[error("the state of this VM is too large: {0} bytes")]
    TooLarge(usize),
}

/// A snapshot cannot be restored; nothing of the guest has run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("cannot read the saved state")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the saved state is sealed well but makes no sense; this is a bug: report it")]
    Senseless(#[source] postcard::Error),
    #[error(transparent)]
    Memory(#[from] MemoryFile),
    #[error(transparent)]
    WorkingSet(#[from] MalformedSet),
}

/// A disk and what serves it.
#[derive(Clone)]
pub(crate) struct ServedDisk {
    /// The loops of its threads, one at least. The device itself is on the first one.
    pub(crate) workers: Vec<EventLoop>,
    /// The device.
    pub(crate) device: Arc<Mutex<dyn VirtioDevice>>,
}

/// A disk whose workers stand still until this is dropped.
type HeldDisk = (Vec<Held<()>>, Held<io::Result<()>>);

impl ServedDisk {
    /// Lets each worker finish its request and stand still, and the last one write out what the disk holds back.
    fn hold(&self, index: usize) -> Result<HeldDisk, SaveError> {
        let stuck = || SaveError::Disk(index);
        let (first, others) = self.workers.split_first().ok_or_else(stuck)?;
        let others = others
            .iter()
            .map(|worker| worker.hold(DISK_LIMIT, || ()).ok_or_else(stuck))
            .collect::<Result<Vec<_>, _>>()?;
        let device = Arc::clone(&self.device);
        let quiesce = move || lock(&device).quiesce();
        let mut held = first.hold(DISK_LIMIT, quiesce).ok_or_else(stuck)?;
        std::mem::replace(&mut held.value, Ok(()))
            .map_err(|error| SaveError::DiskWrite(index, error))?;
        Ok((others, held))
    }
}

/// What a snapshot is made of.
pub(crate) struct Saver {
    pub(crate) vm: Arc<VmFd>,
    pub(crate) memory: Memory,
    pub(crate) msrs: Vec<u32>,
    pub(crate) host: HostId,
    pub(crate) id: u32,
    pub(crate) root: Arc<PciRoot>,
    pub(crate) ports: Arc<Mutex<ConfigPorts>>,
    pub(crate) serial: Arc<Mutex<Serial>>,
    pub(crate) disks: Vec<ServedDisk>,
    /// Served by the main loop, and gives back what it holds before its queues are saved.
    pub(crate) sound: Option<Arc<Mutex<dyn VirtioDevice>>>,
    pub(crate) pagemap: Option<File>,
    pub(crate) ram: u64,
}

impl std::fmt::Debug for Saver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Saver").finish_non_exhaustive()
    }
}

impl Saver {
    /// Writes a snapshot of a paused VM into two empty files. Called on the main loop's thread, which serves every device
    /// but the disks; those are held here. The VM can go on afterwards.
    pub(crate) fn save(
        &self,
        vcpus: &Vcpus,
        key: &[u8; 32],
        state: &OwnedFd,
        memory: &OwnedFd,
    ) -> Result<(), SaveError> {
        if !vcpus.is_paused() {
            return Err(SaveError::NotPaused);
        }
        let _held = self
            .disks
            .iter()
            .enumerate()
            .map(|(index, disk)| disk.hold(index))
            .collect::<Result<Vec<_>, SaveError>>()?;
        if let Some(sound) = &self.sound {
            // It answers nothing until this thread is its loop's again.
            lock(sound).quiesce()?;
        }
        let mut saved = vcpus.with_each(|vcpu| save_vcpu(vcpu, &self.msrs))?;
        align_tsc(&mut saved);
        let whole = State {
            chips: save_chips(&self.vm)?,
            vcpus: saved,
            devices: DeviceState {
                functions: self.root.save()?,
                pci_address: lock(&self.ports).address(),
                serial: lock(&self.serial).save(),
            },
        };
        let mut id = SnapshotId::default();
        random(&mut id)?;
        let written = ram::save(&self.memory, self.pagemap.as_ref(), memory, &id)?;
        let origin = Origin {
            build: BUILD,
            host: self.host.0,
            vm: self.id,
            vcpus: u32::try_from(whole.vcpus.len()).expect("at most eight"),
            ram: self.ram,
        };
        let bytes = postcard::to_allocvec(&whole).expect("plain data in memory");
        if bytes.len() > MAX_STATE / 2 {
            return Err(SaveError::TooLarge(bytes.len()));
        }
        let sealed = header::seal(&origin, &id, &bytes, key);
        // Last, so that a state without its memory does not come to be.
        std::os::unix::fs::FileExt::write_all_at(&File::from(state.try_clone()?), &sealed, 0)?;
        tracing::info!(
            state = sealed.len(),
            memory = written,
            "a snapshot was written"
        );
        Ok(())
    }
}

/// A working set could not be written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoWorkingSet {
    #[error("the VM was booted: only one that went on from a snapshot has a working set")]
    Booted,
    #[error("this kernel does not say which pages a process has")]
    NoPagemap,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("cannot write the working set")]
    Write(#[from] io::Error),
}

impl Saver {
    /// Writes the working set of a restored VM into an empty file: what its guest and its devices have changed until now.
    pub(crate) fn save_working_set(&self, into: OwnedFd) -> Result<(), NoWorkingSet> {
        let pagemap = self.pagemap.as_ref().ok_or(NoWorkingSet::NoPagemap)?;
        let pages = ram::touched(&self.memory, pagemap)?.ok_or(NoWorkingSet::Booted)?;
        let set = WorkingSet::of(pages)?;
        let into = File::from(into);
        Ok(std::os::unix::fs::FileExt::write_all_at(
            &into,
            &set.to_bytes(),
            0,
        )?)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fills a small buffer from the kernel.
pub(crate) fn random(buffer: &mut [u8]) -> io::Result<()> {
    // Up to 256 bytes come at once, or not at all.
    let len = getrandom(&mut *buffer, GetRandomFlags::empty())?;
    if len == buffer.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Where a VM begins: what it has to be, and the files.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) state: OwnedFd,
    pub(crate) memory: File,
    pub(crate) key: [u8; 32],
    /// The VM that was saved.
    pub(crate) vm: u32,
    /// Pages to be given before it runs.
    pub(crate) working_set: Option<OwnedFd>,
}

/// Reads a saved state for a machine of this shape.
pub(crate) fn read(
    saved: &Saved,
    host: &HostId,
    vcpus: usize,
    ram: u64,
) -> Result<State, RestoreError> {
    // Most of them fit; one that grows is copied.
    let mut bytes = Vec::with_capacity(USUAL_STATE);
    let limit = u64::try_from(MAX_STATE).expect("64-bit program");
    let file = saved.state.try_clone().map_err(RestoreError::Read)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))
        .map_err(|errno| RestoreError::Read(errno.into()))?;
    File::from(file)
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(RestoreError::Read)?;
    let expected = Origin {
        build: BUILD,
        host: host.0,
        vm: saved.vm,
        vcpus: u32::try_from(vcpus).expect("at most eight"),
        ram,
    };
    let (id, state) = header::open(&bytes, &expected, &saved.key)?;
    ram::check_id(&saved.memory, ram, &id)?;
    let (state, rest) =
        postcard::take_from_bytes::<State>(state).map_err(RestoreError::Senseless)?;
    if !rest.is_empty() || state.vcpus.len() != vcpus {
        return Err(Refused::Length.into());
    }
    Ok(state)
}
