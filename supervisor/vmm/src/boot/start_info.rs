//! The start info of the PVH boot protocol (Xen's `public/arch-x86/hvm/start_info.h`, version 1).

use std::ops::Range;

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::BootError;
use crate::machine::{Machine, layout, memory};

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Writes start info, module list and memory map.
pub(super) fn write(machine: &Machine, initrd: Range<u64>) -> Result<(), BootError> {
    let map = memory_map(machine.ram);
    let entries = u32::try_from(map.len()).expect("a handful");
    for (address, entry) in (layout::MEMORY_MAP..)
        .step_by(size_of::<hvm_memmap_table_entry>())
        .zip(map)
    {
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

/// What the guest may use: RAM without the tables, and the configuration space, which Linux wants to see reserved.
fn memory_map(ram: u64) -> Vec<hvm_memmap_table_entry> {
    let entry = |range: Range<u64>, type_| hvm_memmap_table_entry {
        addr: range.start,
        size: range.end - range.start,
        type_,
        reserved: 0,
    };
    let mut map = vec![
        entry(0..layout::LOW_RAM_END, RAM),
        entry(layout::LOW_RAM_END..layout::HIGH_RAM_START, RESERVED),
        entry(layout::HIGH_RAM_START..memory::low_end(ram), RAM),
        entry(layout::ECAM..layout::ECAM + layout::ECAM_LEN, RESERVED),
    ];
    map.extend(
        memory::regions(ram)
            .into_iter()
            .skip(1)
            .map(|region| entry(region.start..region.start + region.len, RAM)),
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_sorted_disjoint_and_holds_all_ram_but_the_tables() {
        for ram in [64 << 20, 3 << 30, (3 << 30) + (1 << 20), 16_u64 << 30] {
            let map = memory_map(ram);
            for pair in map.windows(2) {
                assert!(pair[0].addr + pair[0].size <= pair[1].addr, "{ram:#x}");
            }
            let usable: u64 = map
                .iter()
                .filter(|entry| entry.type_ == RAM)
                .map(|entry| entry.size)
                .sum();
            let tables = layout::HIGH_RAM_START - layout::LOW_RAM_END;
            assert_eq!(usable, ram - tables, "{ram:#x}");
        }
    }
}
