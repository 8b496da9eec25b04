//! A device behind its descriptor: registers by read and write, pieces of BARs as memory of the guest.
#![expect(
    unsafe_code,
    reason = "KVM takes memory slots as raw addresses of this process"
)]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use casemate_devices::pci::{BarIndex, Slot};
use casemate_devices::vfio::{Hardware, Piece};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{MapFlags, ProtFlags};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::calls;
use crate::machine::layout;

const COMMAND: u64 = 0x04;
const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const LINE_OFF: u16 = 1 << 10;

/// A mapping of a piece, and the slot in which the guest sees it.
struct Mapping {
    piece: Piece,
    slot: u32,
    /// Address in this process; only KVM uses what is there.
    address: usize,
    len: usize,
    /// Whether the guest has it in its slot.
    shown: bool,
}

/// An interrupt line from the device to a pin of the guest's I/O APIC, without us: the kernel signals the one
/// descriptor, and KVM the other when the guest has answered, upon which the kernel unmasks the line.
#[derive(Debug)]
pub(crate) struct Line {
    trigger: EventFd,
    answered: EventFd,
}

impl Line {
    pub(super) fn new(device: &OwnedFd) -> io::Result<Self> {
        let descriptor = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let (trigger, answered) = (descriptor()?, descriptor()?);
        calls::enable_line(device, &trigger, &answered)?;
        Ok(Self { trigger, answered })
    }

    /// The same line once more.
    pub(super) fn another(&self) -> io::Result<Self> {
        Ok(Self {
            trigger: self.trigger.try_clone()?,
            answered: self.answered.try_clone()?,
        })
    }

    /// Connects it with the pin of a slot.
    pub(crate) fn connect(&self, vm: &VmFd, slot: Slot) -> io::Result<()> {
        vm.register_irqfd_with_resample(&self.trigger, &self.answered, layout::slot_gsi(slot))
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

/// What keeps the device's memory reachable and its group ours.
#[derive(Debug)]
pub(super) struct Keep {
    /// The container, whose mappings go when it is closed.
    pub(super) _container: OwnedFd,
    /// The groups in it.
    pub(super) groups: Vec<OwnedFd>,
}

/// Where the regions of a device are in its descriptor.
pub(super) struct Regions {
    /// Configuration space.
    pub(super) config: u64,
    /// BARs: where they begin, and their bytes.
    pub(super) bars: BTreeMap<BarIndex, Range<u64>>,
}

/// An assigned device. Fields are dropped in order: the device before what it belongs to.
pub(super) struct KernelDevice {
    mappings: Vec<Mapping>,
    vm: Arc<VmFd>,
    device: OwnedFd,
    regions: Regions,
    /// What its command register has.
    command: u16,
    /// Its end is the end of the connection.
    _line: Option<Line>,
    _keep: Arc<Keep>,
}

impl KernelDevice {
    /// Maps the pieces of a device into this process; their slots are numbered from `first_slot`. Switches its memory
    /// decoding on, and bus mastering off until the guest wants it.
    pub(super) fn new(
        vm: Arc<VmFd>,
        device: OwnedFd,
        regions: Regions,
        line: Option<Line>,
        pieces: &[Piece],
        first_slot: u32,
        keep: Arc<Keep>,
    ) -> io::Result<Self> {
        let mut new = Self {
            mappings: Vec::new(),
            vm,
            device,
            regions,
            command: 0,
            _line: line,
            _keep: keep,
        };
        new.change_command(MEMORY, true)?;
        for (slot, piece) in (first_slot..).zip(pieces) {
            let base = new.region(piece.bar)?.start;
            let len = usize::try_from(piece.range.end - piece.range.start)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            // SAFETY: a new mapping at an address of the kernel's choice; nothing but KVM uses it.
            let address = unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED,
                    &new.device,
                    base + piece.range.start,
                )
            }?;
            new.mappings.push(Mapping {
                piece: piece.clone(),
                slot,
                address: address.addr(),
                len,
                shown: false,
            });
        }
        Ok(new)
    }

    fn region(&self, bar: BarIndex) -> io::Result<Range<u64>> {
        let region = self.regions.bars.get(&bar).cloned();
        region.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Where `len` bytes at `offset` of a BAR are in the descriptor.
    fn place(&self, bar: BarIndex, offset: u64, len: usize) -> io::Result<u64> {
        let region = self.region(bar)?;
        let start = region.start.checked_add(offset);
        start
            .filter(|start| {
                let len = u64::try_from(len).unwrap_or(u64::MAX);
                start.checked_add(len).is_some_and(|end| end <= region.end)
            })
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }

    fn change_command(&mut self, bit: u16, on: bool) -> io::Result<()> {
        let command = if on {
            self.command | bit
        } else {
            self.command & !bit
        };
        let place = self.regions.config + COMMAND;
        let written = rustix::io::pwrite(&self.device, &command.to_le_bytes(), place)?;
        whole(written, 2)?;
        self.command = command;
        Ok(())
    }
}

/// Puts a mapping into its slot at `address`, or takes it out when `len` is none.
fn set_slot(vm: &VmFd, mapping: &Mapping, address: u64, len: usize) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot: mapping.slot,
        guest_phys_addr: address,
        memory_size: u64::try_from(len).unwrap_or(u64::MAX),
        userspace_addr: u64::try_from(mapping.address).unwrap_or(u64::MAX),
        flags: 0,
    };
    // SAFETY: the mapping is as long as the slot and lives for as long as the slot has it; the bus has put nothing else
    // there, and RAM is outside of the windows for BARs.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

impl Drop for KernelDevice {
    /// On any thread: it asks nothing of KVM, which only vCPU threads may.
    fn drop(&mut self) {
        // What a guest still has stays until the process ends, because anything else could come to its address. That is
        // so when a VM ends with its devices; one that was unplugged has none.
        for mapping in self.mappings.iter().filter(|mapping| !mapping.shown) {
            // SAFETY: it is ours, and no slot refers to it any more.
            let _ = unsafe {
                rustix::mm::munmap(
                    std::ptr::without_provenance_mut(mapping.address),
                    mapping.len,
                )
            };
        }
    }
}

impl Hardware for KernelDevice {
    fn set_bus_master(&mut self, on: bool) -> io::Result<()> {
        self.change_command(BUS_MASTER, on)
    }

    fn set_line(&mut self, on: bool) -> io::Result<()> {
        self.change_command(LINE_OFF, !on)
    }

    fn read(&mut self, bar: BarIndex, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let place = self.place(bar, offset, data.len())?;
        let len = data.len();
        whole(rustix::io::pread(&self.device, data, place)?, len)
    }

    fn write(&mut self, bar: BarIndex, offset: u64, data: &[u8]) -> io::Result<()> {
        let place = self.place(bar, offset, data.len())?;
        whole(rustix::io::pwrite(&self.device, data, place)?, data.len())
    }

    fn map(&mut self, piece: &Piece, address: u64) -> io::Result<()> {
        let mut mappings = self.mappings.iter_mut();
        let mapping = mappings.find(|mapping| mapping.piece == *piece);
        let mapping = mapping.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        set_slot(&self.vm, mapping, address, mapping.len)?;
        mapping.shown = true;
        Ok(())
    }

    fn unmap(&mut self, piece: &Piece) {
        let mut mappings = self.mappings.iter_mut();
        if let Some(mapping) = mappings.find(|mapping| mapping.piece == *piece) {
            match set_slot(&self.vm, mapping, 0, 0) {
                Ok(()) => mapping.shown = false,
                Err(error) => {
                    tracing::warn!(%error, "a piece of an assigned device stays mapped");
                }
            }
        }
    }
}

fn whole(done: usize, wanted: usize) -> io::Result<()> {
    if done == wanted {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
