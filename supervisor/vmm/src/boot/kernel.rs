//! Kernel, initrd and command line into guest memory.

use std::fs::File;
use std::io::Seek as _;
use std::ops::Range;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::machine::{EntryPoint, Machine, layout, memory};

const PAGE: u64 = 4096;

/// A loaded kernel.
#[derive(Debug)]
pub(super) struct LoadedKernel {
    /// Where it starts.
    pub(super) entry: EntryPoint,
    /// First address after it.
    pub(super) end: u64,
}

/// Loads the segments of an ELF kernel at their physical addresses.
pub(super) fn load_kernel(machine: &Machine, mut image: File) -> Result<LoadedKernel, BootError> {
    let lowest = GuestAddress(layout::HIGH_RAM_START);
    let loaded = Elf::load(machine.memory.as_ref(), None, &mut image, Some(lowest))
        .map_err(BootError::Kernel)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NotPvh);
    };
    let address = u32::try_from(entry.0)
        .ok()
        .filter(|_| (layout::HIGH_RAM_START..memory::low_end(machine.ram)).contains(&entry.0))
        .ok_or(BootError::Entry(entry.0))?;
    Ok(LoadedKernel {
        entry: EntryPoint { address },
        end: loaded.kernel_end,
    })
}

/// Loads the initrd at the end of the RAM below the hole, where nothing that the kernel unpacks reaches it.
pub(super) fn load_initrd(
    machine: &Machine,
    mut image: File,
    kernel_end: u64,
) -> Result<Range<u64>, BootError> {
    let read = |source| BootError::Read {
        what: "initrd",
        source,
    };
    let len = image.metadata().map_err(read)?.len();
    image.rewind().map_err(read)?;
    let ram_end = memory::low_end(machine.ram);
    let start = ram_end
        .checked_sub(len)
        .map(|start| start - start % PAGE)
        .filter(|start| *start >= kernel_end)
        .ok_or(BootError::NoRoom { mib: ram_end >> 20 })?;
    machine
        .memory
        .read_exact_volatile_from(
            GuestAddress(start),
            &mut image,
            usize::try_from(len).expect("64-bit program"),
        )
        .map_err(|source| BootError::Write {
            what: "initrd",
            source,
        })?;
    Ok(start..start + len)
}

/// Puts the command line in its place.
pub(super) fn write_command_line(machine: &Machine, line: &str) -> Result<(), BootError> {
    let mut bytes = line.as_bytes().to_vec();
    if bytes.len() >= layout::COMMAND_LINE_MAX || bytes.contains(&0) {
        return Err(BootError::CommandLine(bytes.len()));
    }
    bytes.push(0);
    machine
        .memory
        .write_slice(&bytes, GuestAddress(layout::COMMAND_LINE))
        .map_err(|source| BootError::Write {
            what: "command line",
            source,
        })
}
