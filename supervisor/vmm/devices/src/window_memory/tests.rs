//! The window memory's function as a guest's PCI code reaches it.

use std::io;
use std::sync::{Arc, Mutex};

use super::{DEVICE_WINDOW_MEMORY, SlotMapper, WindowMemory};
use crate::bus::Bus;
use crate::lock;
use crate::pci::{Ecam, PciRoot, VENDOR_CASEMATE};

const LEN: u64 = 0x100_0000;
const WINDOW: u64 = 0x40_0000_0000;
const ECAM: u64 = 0xe000_0000;

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Map(u64),
    Refused(u64),
    Unmap,
}
use Call::*;

/// Refuses every address with bit 36 set.
#[derive(Default)]
struct Mapper(Mutex<Vec<Call>>);

impl SlotMapper for Mapper {
    fn map(&self, address: u64) -> io::Result<()> {
        let refused = address & (1 << 36) != 0;
        lock(&self.0).push(if refused {
            Refused(address)
        } else {
            Map(address)
        });
        if refused {
            return Err(io::Error::other("refused"));
        }
        Ok(())
    }

    fn unmap(&self) {
        lock(&self.0).push(Unmap);
    }
}

struct Guest {
    bus: Arc<Bus>,
    mapper: Arc<Mapper>,
}

impl Guest {
    fn new() -> Self {
        let bus = Arc::new(Bus::new());
        let mapper = Arc::new(Mapper::default());
        let root = Arc::new(PciRoot::new(
            bus.clone(),
            vec![0..0x1000, WINDOW..WINDOW * 2],
        ));
        let function = WindowMemory::new(LEN, mapper.clone()).expect("a power of two");
        let slot = root.add(Arc::new(Mutex::new(function))).expect("room");
        assert_eq!(slot.number(), 1);
        let ecam = Arc::new(Mutex::new(Ecam::new(root)));
        bus.insert(ECAM, Ecam::LEN, ecam).expect("free");
        Self { bus, mapper }
    }

    fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.bus.read(ECAM + 0x8000 + register, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, register: u64, value: u32) {
        self.bus
            .write(ECAM + 0x8000 + register, &value.to_le_bytes());
    }

    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *lock(&self.mapper.0))
    }
}

#[test]
fn the_function_is_found_by_its_numbers() {
    let guest = Guest::new();
    let id = u32::from(DEVICE_WINDOW_MEMORY) << 16 | u32::from(VENDOR_CASEMATE);
    assert_eq!(guest.read(0x00), id);
    assert_eq!(guest.read(0x08) >> 8, 0x05_80_00);
    assert_eq!(guest.read(0x18), 0x0c, "64-bit, prefetchable");
    assert_eq!(guest.read(0x1c), 0x40);
    assert_eq!((guest.read(0x10), guest.read(0x20)), (0, 0), "no other BAR");
}

#[test]
fn the_slot_follows_the_bar() {
    let guest = Guest::new();
    assert_eq!(guest.calls(), [Map(WINDOW)], "decoded from the start");
    let low = u32::try_from(2 * LEN).expect("small");
    // Register, value, and what it makes the mapper do.
    for (register, value, calls) in [
        (0x04, 0x6, vec![]),
        (0x04, 0x0, vec![Unmap]),
        (0x04, 0x6, vec![Map(WINDOW)]),
        (0x18, low, vec![Unmap, Map(WINDOW + 2 * LEN)]),
        (0x18, low | 0xff, vec![]),
        (0x18, 0xffff_ffff, vec![Unmap, Map(WINDOW + 0xff00_0000)]),
        (0x1c, 0x00, vec![Unmap]),
        (0x1c, 0x80, vec![]),
        (0x1c, 0x50, vec![Refused(0x50_ff00_0000)]),
        (0x1c, 0x41, vec![Map(0x41_ff00_0000)]),
        (0x04, 0x4, vec![Unmap]),
        (0x18, 0, vec![]),
        (0x04, 0x2, vec![Map(0x41_0000_0000)]),
    ] {
        guest.write(register, value);
        assert_eq!(guest.calls(), calls, "{register:#x} <- {value:#x}");
    }
    assert!(WindowMemory::new(LEN + 1, guest.mapper.clone()).is_err());
}
