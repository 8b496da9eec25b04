//! The generic event device (ACPI 6.5, 5.6.9): interrupts, and what the guest does when one comes. All that this machine
//! tells its guest outside of PCI comes through it.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, If, Interrupt, Method, Name, Notify, Package, Path,
    ResourceTemplate,
};

use super::{Made, make, name};
use crate::machine::layout;

/// Something happened to a device, which it knows.
const HAPPENED: u8 = 0x80;

/// One interrupt and the statements for it.
pub(super) struct Source {
    /// Its number; edge-triggered and active high.
    pub(super) gsi: u32,
    /// What is done.
    pub(super) action: Made,
}

/// The device with all its sources.
pub(super) fn device(sources: &[Source]) -> Made {
    let interrupts: Vec<_> = sources
        .iter()
        .map(|source| Interrupt::new(true, true, false, false, source.gsi))
        .collect();
    let interrupts = interrupts.iter().map(|one| -> &dyn Aml { one }).collect();
    let actions: Vec<_> = sources
        .iter()
        .map(|source| {
            make(&If::new(
                &Equal::new(&Arg(0), &source.gsi),
                vec![&source.action],
            ))
        })
        .collect();
    let actions = actions.iter().map(|one| -> &dyn Aml { one }).collect();
    make(&Device::new(
        name("GED_"),
        vec![
            &Name::new(name("_HID"), &"ACPI0013"),
            &Name::new(name("_UID"), &0_u8),
            &Name::new(name("_CRS"), &ResourceTemplate::new(interrupts)),
            &Method::new(name("_EVT"), 1, true, actions),
        ],
    ))
}

/// The button itself.
pub(super) fn power_button() -> Made {
    make(&Device::new(
        name("PWRB"),
        vec![
            &Name::new(name("_HID"), &EISAName::new("PNP0C0C")),
            &Name::new(name("_UID"), &0_u8),
        ],
    ))
}

/// The button was pressed.
pub(super) fn power_button_source() -> Source {
    Source {
        gsi: layout::POWER_BUTTON_GSI,
        action: make(&Notify::new(&Path::new("\\_SB_.PWRB"), &HAPPENED)),
    }
}

/// Says where the guest finds its generation (Microsoft's "Virtual Machine Generation ID", which Linux drives).
pub(super) fn generation() -> Made {
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

/// The generation is a new one.
pub(super) fn generation_source() -> Source {
    Source {
        gsi: layout::GENERATION_GSI,
        action: make(&Notify::new(&Path::new("\\_SB_.VGEN"), &HAPPENED)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::find;
    use super::*;

    #[test]
    fn every_source_has_an_interrupt_and_a_branch() {
        let source = |gsi, byte| Source {
            gsi,
            action: Made(vec![0x70, 0x0a, byte, 0x60]),
        };
        let Made(device) = device(&[source(5, 0xaa), source(6, 0xbb)]);
        for (gsi, byte) in [(5, 0xaa), (6, 0xbb)] {
            // Extended interrupt descriptor: consumer, edge-triggered, one number.
            let interrupt = [0x89, 6, 0, 0x03, 1, gsi, 0, 0, 0];
            assert!(find(&device, &interrupt).is_some(), "{gsi}");
            // If (Arg0 == gsi) { Store (byte, Local0) }
            let branch = [0xa0, 0x09, 0x93, 0x68, 0x0a, gsi, 0x70, 0x0a, byte, 0x60];
            assert!(find(&device, &branch).is_some(), "{gsi}: {device:x?}");
        }
    }
}
