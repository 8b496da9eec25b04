//! The 31 slots of bus 0, as Linux's acpiphp wants them, and the registers by which the guest learns what came and what
//! is to leave: see `HotPlug` of the devices.
//!
//! ```text
//! OperationRegion (HPRG, SystemIO, port, 12)
//! Field (HPRG, DWordAcc, NoLock, WriteAsZeros) { HPIN, 32, HPLV, 32, HPEJ, 32 }
//! Device (SLnn) { _SUN n; _ADR n << 16; _EJ0 (1) { HPEJ = 1 << n } }
//! HPSC () { Local0 = HPIN; Local1 = HPLV; each n: If (Local0 & 1 << n) Notify (SLnn, 1); ... 3 }
//! ```
//!
//! No slot has a _STA: the kernel reads configuration space to see whether there is a function.

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local,
    Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path, Store, ZERO,
};
use casemate_devices::pci::{HotPlug, Slot};

use super::events::Source;
use super::{Made, make, name};
use crate::machine::layout;

/// A function came: look at the slot.
const DEVICE_CHECK: u8 = 1;
/// The function is to leave.
const EJECT_REQUEST: u8 = 3;

/// Something came or is to leave.
pub(super) fn source() -> Source {
    Source {
        gsi: layout::HOT_PLUG_GSI,
        action: make(&MethodCall::new(Path::new("\\_SB_.PCI0.HPSC"), vec![])),
    }
}

/// What belongs into the PCI root.
pub(super) fn slots() -> Made {
    let mut bytes = Vec::new();
    let len = u8::try_from(HotPlug::LEN).expect("a few registers");
    OpRegion::new(
        name("HPRG"),
        OpRegionSpace::SystemIO,
        &layout::HOT_PLUG,
        &len,
    )
    .to_aml_bytes(&mut bytes);
    // In the order of their offsets.
    Field::new(
        name("HPRG"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![
            FieldEntry::Named(*b"HPIN", 32),
            FieldEntry::Named(*b"HPLV", 32),
            FieldEntry::Named(*b"HPEJ", 32),
        ],
    )
    .to_aml_bytes(&mut bytes);
    for slot in Slot::all() {
        slot_device(slot).to_aml_bytes(&mut bytes);
    }
    scan().to_aml_bytes(&mut bytes);
    Made(bytes)
}

fn slot_name(slot: Slot) -> Path {
    name(&format!("SL{:02X}", slot.number()))
}

fn mask(slot: Slot) -> u32 {
    1 << slot.number()
}

fn slot_device(slot: Slot) -> Made {
    make(&Device::new(
        slot_name(slot),
        vec![
            &Name::new(name("_SUN"), &slot.number()),
            &Name::new(name("_ADR"), &(u32::from(slot.number()) << 16)),
            &Method::new(
                name("_EJ0"),
                1,
                true,
                vec![&Store::new(&name("HPEJ"), &mask(slot))],
            ),
        ],
    ))
}

/// Reads both registers, which clears them, and tells the kernel of each slot in them.
fn scan() -> Made {
    let (inserted, leaving) = (Local(0), Local(1));
    let notices: Vec<_> = Slot::all()
        .flat_map(|slot| {
            [(Local(0), DEVICE_CHECK), (Local(1), EJECT_REQUEST)].map(|(bits, notice)| {
                make(&If::new(
                    &And::new(&ZERO, &bits, &mask(slot)),
                    vec![&Notify::new(&slot_name(slot), &notice)],
                ))
            })
        })
        .collect();
    let (came, leaves) = (name("HPIN"), name("HPLV"));
    let store_inserted = Store::new(&inserted, &came);
    let store_leaving = Store::new(&leaving, &leaves);
    let mut statements: Vec<&dyn Aml> = vec![&store_inserted, &store_leaving];
    statements.extend(notices.iter().map(|one| -> &dyn Aml { one }));
    make(&Method::new(name("HPSC"), 0, true, statements))
}

#[cfg(test)]
mod tests {
    use super::super::tests::find;
    use super::*;

    #[test]
    fn registers_are_where_the_devices_have_them() {
        let Made(bytes) = slots();
        let [low, high] = layout::HOT_PLUG.to_le_bytes();
        let region = [b"\x5b\x80HPRG\x01\x0b".as_slice(), &[low, high, 0x0a, 12]].concat();
        assert_eq!(find(&bytes, &region), Some(region.len()));
        // Double words, no lock, other bits as zeros; 32 bits each.
        let field = [
            b"HPRG\x43".as_slice(),
            b"HPIN\x20",
            b"HPLV\x20",
            b"HPEJ\x20",
        ]
        .concat();
        assert!(find(&bytes, &field).is_some());
        assert_eq!(
            (HotPlug::INSERTED, HotPlug::LEAVING, HotPlug::EJECT),
            (0, 4, 8)
        );
    }

    /// An integer in its shortest form (ACPI 6.5, 20.2.3).
    fn integer(value: u32) -> Vec<u8> {
        match value {
            0 | 1 => vec![value.to_le_bytes()[0]],
            2..=0xff => vec![0x0a, value.to_le_bytes()[0]],
            0x100..=0xffff => [&[0x0b], &value.to_le_bytes()[..2]].concat(),
            _ => [&[0x0c], value.to_le_bytes().as_slice()].concat(),
        }
    }

    #[test]
    fn every_slot_has_its_number_address_and_bit() {
        let Made(bytes) = slots();
        for number in 1..=31 {
            let bit = integer(1 << number);
            let path = format!("SL{number:02X}");
            let device = [
                path.as_bytes(),
                b"\x08_SUN",
                &integer(number),
                b"\x08_ADR",
                &integer(number << 16),
                &[0x14],
            ]
            .concat();
            let method = find(&bytes, &device).unwrap_or_else(|| panic!("{path}"));
            // After the length: one argument, serialized; a store into the register.
            let eject = [b"_EJ0\x09\x70".as_slice(), &bit, b"HPEJ"].concat();
            assert!(bytes[method + 1..].starts_with(&eject), "{path}");
            for (local, notice) in [(0x60, 1), (0x61, 3)] {
                let branch = [
                    &[0x7b, local],
                    bit.as_slice(),
                    &[0x00, 0x86],
                    path.as_bytes(),
                    &integer(notice),
                ]
                .concat();
                assert!(find(&bytes, &branch).is_some(), "{path} {notice}");
            }
        }
    }
}
