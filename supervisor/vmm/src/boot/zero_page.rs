//! The zero page of Linux's 64-bit boot protocol (`Documentation/arch/x86/boot.rst`, `zero-page.rst`).

use std::ops::Range;

use casemate_kernel::SetupHeader;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::BootError;
use super::memory_map::{self, Kind};
use crate::machine::{Machine, layout};

/// Writes the zero page.
pub(super) fn write(
    machine: &Machine,
    setup: &SetupHeader,
    initrd: &Range<u64>,
) -> Result<(), BootError> {
    let low = |address: u64| u32::try_from(address).expect("RAM for kernels is below 4 GiB");
    let header = setup.fill(
        low(layout::COMMAND_LINE),
        low(initrd.start)..low(initrd.end),
    )?;
    let mut page = parameters(machine.ram);
    let place = page.as_mut_slice().iter_mut().skip(SetupHeader::OFFSET);
    for (place, byte) in place.zip(header) {
        *place = byte;
    }
    machine
        .memory
        .write_obj(page, GuestAddress(layout::ZERO_PAGE))
        .map_err(|source| BootError::Write {
            what: "zero page",
            source,
        })
}

/// All but the setup header: where the ACPI tables are, and what of the address space is RAM.
fn parameters(ram: u64) -> boot_params {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    let mut page = boot_params {
        acpi_rsdp_addr: layout::ACPI.start,
        ..Default::default()
    };
    let mut table = page.e820_table;
    let mut count = 0;
    for (place, entry) in table.iter_mut().zip(memory_map::entries(ram)) {
        *place = boot_e820_entry {
            addr: entry.range.start,
            size: entry.range.end - entry.range.start,
            r#type: match entry.kind {
                Kind::Ram => RAM,
                Kind::Reserved => RESERVED,
            },
        };
        count += 1;
    }
    page.e820_table = table;
    page.e820_entries = count;
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_kernel_looks_for_them() {
        let page = parameters(4 << 30);
        let bytes = page.as_slice();
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        assert_eq!(bytes.len(), 4096);
        assert_eq!(long(0x70), layout::ACPI.start);
        assert_eq!(bytes[0x1e8], 5, "entries of the memory map");
        // The first entry: low RAM. Entries have 20 bytes.
        assert_eq!(
            (long(0x2d0), long(0x2d8), bytes[0x2e0]),
            (0, layout::LOW_RAM_END, 1)
        );
        let last = 0x2d0 + 4 * 20;
        assert_eq!(
            (long(last), long(last + 8), bytes[last + 16]),
            (4 << 30, 1 << 30, 1)
        );
    }
}
