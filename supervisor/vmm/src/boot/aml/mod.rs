//! The DSDT's definition block: PCI root with its slots, serial port, power button, generation, the event device, S5.

mod events;
mod hot_plug;

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, Path, ResourceTemplate, Scope,
};

use casemate_devices::pci::Slot;

use crate::machine::layout;
use crate::power;

/// All devices that are not on the PCI bus, and the bus itself.
pub(super) fn definition_block(window_64: Range<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    Scope::new(
        "_SB_".into(),
        vec![
            &pci_root(window_64),
            &motherboard(),
            &serial_port(),
            &events::power_button(),
            &events::generation(),
            &events::device(&[
                events::power_button_source(),
                events::generation_source(),
                hot_plug::source(),
            ]),
        ],
    )
    .to_aml_bytes(&mut bytes);
    Name::new("_S5_".into(), &Package::new(vec![&power::SLEEP_TYPE_OFF])).to_aml_bytes(&mut bytes);
    bytes
}

/// AML made ahead, because a device borrows its children.
struct Made(Vec<u8>);

impl Aml for Made {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn make(aml: &dyn Aml) -> Made {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    Made(bytes)
}

fn name(path: &str) -> Path {
    Path::new(path)
}

/// Bus 0 and its windows. The 64-bit window is called non-prefetchable so that Linux puts BARs of both kinds in it.
fn pci_root(window_64: Range<u64>) -> Made {
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let low = |address: u64| u32::try_from(address).expect("the 32-bit window is below 4 GiB");
    let window_32 = low(layout::PCI_WINDOW_32.start)..low(layout::PCI_WINDOW_32.end);
    let ports = u8::try_from(layout::PCI_PORTS_LEN).expect("eight ports");
    let word = |port: u64| u16::try_from(port).expect("ports have 16 bits");
    let window_ports = layout::PCI_PORT_WINDOW;
    let (first_port, last_port) = (word(window_ports.start), word(window_ports.end - 1));
    make(&Device::new(
        name("PCI0"),
        vec![
            &Name::new(name("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(name("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(name("_SEG"), &0_u8),
            &Name::new(name("_BBN"), &0_u8),
            &Name::new(name("_UID"), &0_u8),
            &Name::new(
                name("_CRS"),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0_u16, 0_u16),
                    &IO::new(layout::PCI_PORTS, layout::PCI_PORTS, 1, ports),
                    &AddressSpace::new_io(first_port, last_port, None),
                    &AddressSpace::new_memory(
                        cacheable,
                        true,
                        window_32.start,
                        window_32.end - 1,
                        None,
                    ),
                    &AddressSpace::new_memory(
                        cacheable,
                        true,
                        window_64.start,
                        window_64.end - 1,
                        None,
                    ),
                ]),
            ),
            &lines(),
            &hot_plug::slots(),
        ],
    ))
}

/// To which input of the I/O APIC the line INTA of each slot goes (ACPI 6.5, 6.2.13). No other line is used.
fn lines() -> Made {
    const FIRST_LINE: u8 = 0;
    const NO_LINK: u8 = 0;
    let rows: Vec<_> = Slot::all()
        .map(|slot| {
            let all_functions = u32::from(slot.number()) << 16 | 0xffff;
            make(&Package::new(vec![
                &all_functions,
                &FIRST_LINE,
                &NO_LINK,
                &layout::slot_gsi(slot),
            ]))
        })
        .collect();
    let rows = rows.iter().map(|row| -> &dyn Aml { row }).collect();
    make(&Name::new(name("_PRT"), &Package::new(rows)))
}

/// Claims the configuration space, so that Linux uses it.
fn motherboard() -> Made {
    let ecam = u32::try_from(layout::ECAM).expect("below 4 GiB");
    let len = u32::try_from(layout::ECAM_LEN).expect("one bus");
    make(&Device::new(
        name("MBRD"),
        vec![
            &Name::new(name("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(name("_UID"), &0_u8),
            &Name::new(
                name("_CRS"),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, ecam, len)]),
            ),
        ],
    ))
}

fn serial_port() -> Made {
    let ports = u8::try_from(layout::COM1_LEN).expect("eight ports");
    make(&Device::new(
        name("COM1"),
        vec![
            &Name::new(name("_HID"), &EISAName::new("PNP0501")),
            &Name::new(name("_UID"), &0_u8),
            &Name::new(name("_DDN"), &"COM1"),
            &Name::new(
                name("_CRS"),
                &ResourceTemplate::new(vec![
                    &Interrupt::new(true, true, false, false, layout::COM1_GSI),
                    &IO::new(layout::COM1, layout::COM1, 0, ports),
                ]),
            ),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `bytes` has `part` in it, and where it ends.
    pub(super) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
        let at = bytes.windows(part.len()).position(|some| some == part)?;
        Some(at + part.len())
    }

    #[test]
    fn the_block_has_its_devices_in_the_scope_of_the_system_bus() {
        let block = definition_block(0x40_0000_0000..0x80_0000_0000);
        assert_eq!(block[0], 0x10, "a scope first");
        for device in [b"PCI0", b"MBRD", b"COM1", b"PWRB", b"VGEN", b"GED_"] {
            let found = find(&block, device);
            assert!(found.is_some(), "{}", String::from_utf8_lossy(device));
        }
        // _PRT: 31 packages of four: slot 1 of any function, line 0, no link, input 17.
        let table = find(&block, b"\x08_PRT\x12").expect("a package");
        let row = [
            0x12, 0x0b, 0x04, 0x0c, 0xff, 0xff, 0x01, 0x00, 0x00, 0x00, 0x0a, 0x11,
        ];
        let rest = &block[table..];
        assert_eq!(
            find(rest, &row).map(|end| end - row.len()),
            Some(3),
            "{rest:x?}"
        );
        // The window of ports, 0xc000 to 0xffff: a word address space descriptor (ACPI 6.5, 6.4.3.5.3).
        let window = [
            0x88, 0x0d, 0x00, 0x01, 0x0c, 0x03, 0x00, 0x00, 0x00, 0xc0, 0xff, 0xff, 0x00, 0x00,
            0x00, 0x40,
        ];
        assert!(find(&block, &window).is_some());
        // _S5_: a package with one element, 5.
        let sleep = [b"_S5_".as_slice(), &[0x12, 0x04, 0x01, 0x0a, 0x05]].concat();
        assert_eq!(find(&block, &sleep), Some(block.len()));
    }
}
