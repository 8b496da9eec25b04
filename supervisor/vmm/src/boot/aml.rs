//! The DSDT's definition block: PCI root, serial port, power button, generation, their event device, S5.

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt,
    Memory32Fixed, Method, Name, Notify, Package, Path, ResourceTemplate, Scope,
};

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
            &PowerButton,
            &generation(),
            &Events,
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
        ],
    ))
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

/// Says where the guest finds its generation (Microsoft's "Virtual Machine Generation ID", which Linux drives).
fn generation() -> Made {
    let low = u32::try_from(layout::GENERATION).expect("below 4 GiB");
    make(&Device::new(
        name("VGEN"),
        vec![
            &Name::new(name("_HID"), &"VMGENCTR"),
            &Name::new(name("_CID"), &"VM_Gen_Counter"),
            &Name::new(name("_DDN"), &"VM_Gen_Counter"),
            &Name::new(name("_UID"), &0_u8),
            &Name::new(name("ADDR"), &Package::new(vec![&low, &0_u32])),
        ],
    ))
}

/// The button.
struct PowerButton;

impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        Device::new(
            name("PWRB"),
            vec![
                &Name::new(name("_HID"), &EISAName::new("PNP0C0C")),
                &Name::new(name("_UID"), &0_u8),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The generic event device (ACPI 6.5, 5.6.9), whose interrupts say that the button was pressed, and that the generation
/// is a new one.
struct Events;

impl Aml for Events {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        const HAPPENED: u8 = 0x80;
        let interrupt = |gsi| Interrupt::new(true, true, false, false, gsi);
        Device::new(
            name("GED_"),
            vec![
                &Name::new(name("_HID"), &"ACPI0013"),
                &Name::new(name("_UID"), &0_u8),
                &Name::new(
                    name("_CRS"),
                    &ResourceTemplate::new(vec![
                        &interrupt(layout::POWER_BUTTON_GSI),
                        &interrupt(layout::GENERATION_GSI),
                    ]),
                ),
                &Method::new(
                    name("_EVT"),
                    1,
                    true,
                    vec![
                        &If::new(
                            &Equal::new(&Arg(0), &layout::POWER_BUTTON_GSI),
                            vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &HAPPENED)],
                        ),
                        &If::new(
                            &Equal::new(&Arg(0), &layout::GENERATION_GSI),
                            vec![&Notify::new(&Path::new("\\_SB_.VGEN"), &HAPPENED)],
                        ),
                    ],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}
