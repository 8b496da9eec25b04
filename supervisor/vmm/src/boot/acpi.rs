//! ACPI tables of a hardware-reduced machine: RSDP, XSDT, FADT, MADT, MCFG, DSDT (ACPI 6.5, chapter 5).
//!
//! No FACS, no legacy power hardware: power-off is one register, reset another, the power button an interrupt.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{BootError, aml};
use crate::machine::{Machine, layout};
use crate::power;

const OEM: [u8; 6] = *b"CSMATE";
const TABLE: [u8; 8] = *b"CASEMATE";
const REVISION: u32 = 1;

/// Length of a table header.
const HEADER_LEN: u32 = 36;

/// Writes all tables; the RSDP is the first thing in [`layout::ACPI`].
pub(super) fn write(machine: &Machine) -> Result<(), BootError> {
    let mut tables = Tables::new();
    let dsdt = tables.add(&dsdt(machine));
    let fadt = tables.add(&bytes(&fadt(dsdt)));
    let madt = tables.add(&bytes(&madt(machine.vcpus.len())));
    let mcfg = tables.add(&bytes(&mcfg()));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    for address in [fadt, madt, mcfg] {
        xsdt.add_entry(address);
    }
    let xsdt = tables.add(&bytes(&xsdt));
    tables.set_root(&bytes(&Rsdp::new(OEM, xsdt)));
    machine
        .memory
        .write_slice(&tables.bytes, GuestAddress(layout::ACPI.start))
        .map_err(|source| BootError::Write {
            what: "ACPI tables",
            source,
        })
}

/// Tables one after the other, with room for the root pointer before them.
struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    const ALIGNMENT: usize = 16;

    fn new() -> Self {
        let root = Rsdp::len().next_multiple_of(Self::ALIGNMENT);
        Self {
            bytes: vec![0; root],
        }
    }

    /// Appends a table; returns its guest address.
    fn add(&mut self, table: &[u8]) -> u64 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(table);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(Self::ALIGNMENT), 0);
        layout::ACPI.start + u64::try_from(start).expect("lengths fit in 64 bits")
    }

    fn set_root(&mut self, root: &[u8]) {
        if let Some(place) = self.bytes.get_mut(..root.len()) {
            place.copy_from_slice(root);
        }
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn dsdt(machine: &Machine) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER_LEN, 6, OEM, TABLE, REVISION);
    table.append_slice(&aml::definition_block(machine.pci_window_64.clone()));
    table.as_slice().to_vec()
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    /// "VGA not present" and "CMOS clock not present"; a clear bit 1 says that there is no keyboard controller.
    const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 5;
    let register = |address: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(address),
        )
    };
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.sleep_control_reg = register(layout::POWER + power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(layout::POWER + power::SLEEP_STATUS);
    fadt.reset_reg = register(layout::POWER + power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

fn madt(vcpus: usize) -> MADT {
    let mut madt = MADT::new(
        OEM,
        TABLE,
        REVISION,
        LocalInterruptController::Address(layout::LOCAL_APIC),
    );
    for (id, ()) in (0..).zip(std::iter::repeat_n((), vcpus)) {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt.add_structure(SourceOverride::edge_high(layout::COM1_GSI));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, 0);
    mcfg
}

/// Interrupt source override (ACPI 6.5, 5.2.12.5).
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
struct SourceOverride {
    kind: u8,
    len: u8,
    bus: u8,
    source: u8,
    gsi: U32,
    flags: U16,
}

impl SourceOverride {
    /// ISA interrupt `gsi` is pin `gsi`, edge-triggered and active high.
    fn edge_high(gsi: u32) -> Self {
        Self {
            kind: 2,
            len: 10,
            bus: 0,
            source: gsi.to_le_bytes()[0],
            gsi: gsi.into(),
            flags: 0b0101.into(),
        }
    }
}

impl Aml for SourceOverride {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_their_length_and_sum_to_zero() {
        for table in [bytes(&fadt(0x1234)), bytes(&madt(3)), bytes(&mcfg())] {
            let len = u32::from_le_bytes(table[4..8].try_into().expect("four bytes"));
            assert_eq!(usize::try_from(len).ok(), Some(table.len()));
            let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "{:?}", &table[..4]);
        }
    }

    #[test]
    fn tables_are_aligned_and_the_root_comes_first() {
        let mut tables = Tables::new();
        assert_eq!(tables.add(&[1; 5]), layout::ACPI.start + 48);
        assert_eq!(tables.add(&[2; 16]), layout::ACPI.start + 64);
        tables.set_root(&[9; 36]);
        assert_eq!(tables.bytes[..36], [9; 36]);
        assert_eq!(tables.bytes[48..53], [1; 5]);
    }
}
