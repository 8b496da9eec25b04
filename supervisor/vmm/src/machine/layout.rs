//! Where everything is in the guest's physical address space and I/O ports. Constants only.
//!
//! ```text
//!          0x500  GDT of the first vCPU
//!         0x6000  PVH start info, module list, memory map
//!         0x7000  zero page of a bzImage
//!         0x9000  page tables that a bzImage starts with
//!        0x20000  kernel command line
//!        0x9fc00  ---- end of low RAM as the guest is told
//!        0xe0000  ACPI: RSDP first, then the other tables (reserved, but RAM to us)
//!        0xff000  generation of the VM (16 bytes)
//!       0x100000  RAM: kernel from 16 MiB, initrd at the end of it
//!    0xc000_0000  ---- end of RAM below 4 GiB; 32-bit PCI window
//!    0xeec0_0000  PCI configuration space of bus 0 (ECAM), 1 MiB
//!    0xfec0_0000  I/O APIC            0xfee0_0000  local APIC
//!    0xfffb_c000  identity map page   0xfffb_d000  TSS pages of KVM (Intel)
//!  0x1_0000_0000  RAM that did not fit below
//!  64-bit window  the upper half of what the vCPU can address, at most 256 GiB to 512 GiB
//! ```

use std::ops::Range;

use casemate_devices::pci::Slot;

/// First address after low RAM, as the guest is told: the rest of the megabyte is reserved.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// Where RAM goes on after the reserved part of the first megabyte.
pub(crate) const HIGH_RAM_START: u64 = 0x10_0000;
/// End of RAM below 4 GiB and start of the 32-bit PCI window.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// Where RAM goes on after the hole.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;

/// The first vCPU's descriptor table.
pub(crate) const GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH boot protocol.
pub(crate) const START_INFO: u64 = 0x6000;
/// Its list of modules: the initrd.
pub(crate) const MODULE_LIST: u64 = 0x6040;
/// Its memory map.
pub(crate) const MEMORY_MAP: u64 = 0x6100;
/// The zero page of Linux's 64-bit boot protocol.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Page tables that map the first 4 GiB: six pages.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// The ACPI tables.
pub(crate) const ACPI: Range<u64> = 0xe_0000..0x10_0000;

/// The 32-bit PCI window: from the end of RAM to the configuration space.
pub(crate) const PCI_WINDOW_32: Range<u64> = HOLE_START..ECAM;
/// PCI configuration space of bus 0.
pub(crate) const ECAM: u64 = 0xeec0_0000;
/// One bus of 32 devices with 8 functions of 4 KiB.
pub(crate) const ECAM_LEN: u64 = 0x10_0000;
/// The I/O APIC, emulated by KVM.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// The local APIC, emulated by KVM.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page that KVM uses on Intel for real mode.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM uses on Intel for real mode.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// The first serial port.
pub(crate) const COM1: u16 = 0x3f8;
/// Ports of a 16550.
pub(crate) const COM1_LEN: u16 = 8;
/// Its interrupt.
pub(crate) const COM1_GSI: u32 = 4;
/// Command and status port of a keyboard controller, of which only the reset line is there.
pub(crate) const I8042_COMMAND: u16 = 0x64;
/// Sleep control, sleep status and reset register of the FADT, one byte each.
pub(crate) const POWER: u16 = 0x600;
/// Registers of the hot-plug controller.
pub(crate) const HOT_PLUG: u16 = 0x610;
/// The PCI address and data ports.
pub(crate) const PCI_PORTS: u16 = 0xcf8;
/// Both are four bytes.
pub(crate) const PCI_PORTS_LEN: u16 = 8;
/// Ports for BARs of PCI functions. A kernel that places one itself, as it does with a function that is plugged in, leaves
/// out the three quarters of each KiB that old ISA cards would answer to: there are still 64 places of 64 ports.
pub(crate) const PCI_PORT_WINDOW: Range<u64> = 0xc000..0x1_0000;

/// Interrupt of the generic event device: the power button.
pub(crate) const POWER_BUTTON_GSI: u32 = 5;
/// Interrupt of the generic event device: the VM has another generation, it is a clone.
pub(crate) const GENERATION_GSI: u32 = 6;
/// Interrupt of the generic event device: a function came to a slot or is to leave it.
pub(crate) const HOT_PLUG_GSI: u32 = 7;
/// First interrupt of the lines of PCI functions, of which there are eight.
const FIRST_LINE_GSI: u32 = 16;
/// The interrupt of the line INTA of a PCI slot; those of slots with eight between them are shared.
pub(crate) fn slot_gsi(slot: Slot) -> u32 {
    FIRST_LINE_GSI + u32::from(slot.number() % 8)
}
/// Where the guest finds its generation, 16 bytes: the last page of the reserved part of the first megabyte.
pub(crate) const GENERATION: u64 = ACPI.end - 0x1000;
/// Inputs of the I/O APIC.
pub(crate) const IO_APIC_PINS: u32 = 24;
/// The first interrupt number that is not a pin of the I/O APIC: message-signalled ones begin here.
pub(crate) const FIRST_MSI_GSI: u32 = IO_APIC_PINS;

/// The 64-bit PCI window for a vCPU that can address `physical_bits`: the upper half of its space, so that it never
/// meets RAM that a machine of this size can have, and no more than Linux maps with 4-level tables and nested paging.
pub(crate) fn pci_window_64(physical_bits: u8) -> Range<u64> {
    let end = 1_u64 << physical_bits.clamp(36, 39);
    end / 2..end
}
