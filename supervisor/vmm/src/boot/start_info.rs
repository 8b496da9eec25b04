//! The start info of the PVH boot protocol (Xen's `public/arch-x86/hvm/start_info.h`, version 1).

use std::ops::Range;

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::BootError;
use super::memory_map::{self, Kind};
use crate::machine::{Machine, layout};

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Writes start info, module list and memory map.
pub(super) fn write(machine: &Machine, initrd: &Range<u64>) -> Result<(), BootError> {
    let map = memory_map::entries(machine.ram);
    let entries = u32::try_from(map.len()).expect("a handful");
    for (address, entry) in (layout::MEMORY_MAP..)
        .step_by(size_of::<hvm_memmap_table_entry>())
        .zip(map)
    {
        let entry = hvm_memmap_table_entry {
            addr: entry.range.start,
            size: entry.range.end - entry.range.start,
            type_: match entry.kind {
                Kind::Ram => RAM,
                Kind::Reserved => RESERVED,
            },
            reserved: 0,
        };
        put(machine, entry, address)?;
    }
    let module = hvm_modlist_entry {
        paddr: initrd.start,
        size: initrd.end - initrd.start,
        ..Default::default()
    };
    put(machine, module, layout::MODULE_LIST)?;
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: 1,
        modlist_paddr: layout::MODULE_LIST,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::ACPI.start,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: entries,
        ..Default::default()
    };
    put(machine, info, layout::START_INFO)
}

fn put<T: ByteValued>(machine: &Machine, value: T, address: u64) -> Result<(), BootError> {
    machine
        .memory
        .write_obj(value, GuestAddress(address))
        .map_err(|source| BootError::Write {
            what: "start info",
            source,
        })
}
