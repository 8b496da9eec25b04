//! Where the BARs are, and the ways to them.

use super::*;
use crate::bus::BusDevice;
use crate::pci::{PciFunction, Slot};

const LEN: u64 = 0x8000;

/// Moves BAR0 while decoding stays on, high half first.
fn place(guest: &Guest, address: u64) {
    let [low, high] = [address & 0xffff_ffff, address >> 32];
    guest.write_config(0x14, &high.to_le_bytes()[..4]);
    guest.write_config(0x10, &low.to_le_bytes()[..4]);
}

#[test]
fn the_bar_follows_the_guest() {
    let guest = Guest::new();
    let second = guest.add();
    // Its BARs are placed behind ours, and enabled.
    guest.bus.write(ECAM + 0x1_0000 + 4, &[3, 0]);
    let doorbells = [PORTS, PORTS + 4, PORTS + 64, PORTS + 68];
    let mut at = Some(WINDOW);
    for (address, decoded) in [
        (WINDOW, true),
        (WINDOW + 4 * LEN, true),
        (WINDOW + 0x123, true),
        (WINDOW_END - LEN, true),
        (WINDOW_END, false),
        (0xc000_8000, true),
        (0xcfff_8000, true),
        (0xd000_0000, false),
        (WINDOW - LEN, false),
        (0, false),
        (0xfee0_0000, false),
        (ECAM, false),
        (u64::MAX, false),
        (WINDOW + LEN, false),
        (WINDOW + 2 * LEN, true),
    ] {
        place(&guest, address);
        let base = address & !(LEN - 1);
        if let Some(at) = at
            && at != base
        {
            assert_eq!(read(&guest.bus, at + 0x12, 2), 0xffff, "{address:#x} left");
        }
        at = decoded.then_some(base);
        if decoded {
            assert_eq!(read(&guest.bus, base + 0x12, 2), 2, "{address:#x}");
        }
        assert_eq!(guest.notify.watched(), doorbells, "ports stay");
    }
    guest.write_config(0x04, &[5, 0]);
    assert_eq!(read(&guest.bus, WINDOW + 2 * LEN + 0x12, 2), 0xffff, "off");
    assert_eq!(
        guest.notify.watched(),
        doorbells,
        "only memory was switched off"
    );
    assert_eq!(lock(&second).resets, 0);
}

/// The machine's own ports, which a guest must not lose to a BAR, and that count writes.
struct Counter(Arc<Mutex<u32>>);

impl BusDevice for Counter {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0x11);
    }
    fn write(&mut self, _offset: u64, _data: &[u8]) {
        *lock(&self.0) += 1;
    }
}

#[test]
fn doorbells_follow_the_ports_and_shadow_nothing() {
    let guest = Guest::new();
    let written = Arc::new(Mutex::new(0));
    for (base, len) in [(0x3f8, 8), (0x600, 3), (0x610, 12), (0xd000, 64)] {
        let device = Arc::new(Mutex::new(Counter(written.clone())));
        guest.ports.insert(base, len, device).expect("free");
    }
    let second = guest.add();
    guest.bus.write(ECAM + 0x1_0000 + 4, &[3, 0]);
    let others = [PORTS + 64, PORTS + 68];
    guest.start();
    let mut expected = 0;
    for (address, decoded) in [
        (PORTS, true),
        (PORTS + 0x80, true),
        (PORTS + 0xff, true),
        (PORTS_END - 64, true),
        (PORTS_END, false),
        (0xffff_ffff, false),
        (0, false),
        (0x3c0, false),
        (0x600, false),
        (0xcc0, false),
        (0xcf8, false),
        (PORTS - 64, false),
        (PORTS + 64, false),
        (0xd000, false),
        (0xd040, true),
    ] {
        guest.write_config(0x18, &u64::to_le_bytes(address)[..4]);
        let base = address & !63;
        let mut watched = guest.notify.watched();
        watched.retain(|port| !others.contains(port));
        if decoded {
            assert_eq!(watched, [base, base + 4], "{address:#x}");
        } else {
            assert!(watched.is_empty(), "{address:#x}: {watched:#x?}");
        }
        lock(&guest.device).kicked.clear();
        for port in [0x3f8, 0x600, 0x610, 0xd000] {
            guest.ports.write(port, &[0]);
            assert_eq!(read(&guest.ports, port, 1), 0x11, "{address:#x}");
            expected += 1;
        }
        assert_eq!(*lock(&written), expected, "{address:#x} stole an access");
        assert_eq!(read(&guest.ports, 0xcf8, 4) & 3, 0, "{address:#x}");
        guest.run();
        assert!(lock(&guest.device).kicked.is_empty(), "{address:#x}");
        guest.ports.write(base + 4, &[1, 0]);
        guest.run();
        let heard: &[u32] = if decoded { &[1] } else { &[] };
        assert_eq!(lock(&guest.device).kicked, heard, "{address:#x}");
        *lock(&written) = expected;
    }
    guest.write_config(0x04, &[6, 0]);
    assert_eq!(guest.notify.watched(), others, "ports are switched off");
    assert_eq!(guest.get(STATUS), 15, "memory is not");
    guest.write_config(0x04, &[7, 0]);
    assert_eq!(guest.notify.watched().len(), 4);
    assert!(guest.root.remove(Slot::new(1).expect("a slot")));
    assert_eq!(guest.notify.watched(), others, "it was unplugged");
    assert_eq!(lock(&second).resets, 0);
}

#[test]
fn a_device_works_on_where_its_bar_was_moved() {
    let mut guest = Guest::new();
    guest.start();
    // As kernels find the size: decoding stays on here, the harder case.
    guest.write_config(0x10, &[0xff; 4]);
    guest.write_config(0x14, &[0xff; 4]);
    assert_eq!(guest.config(0x10, 4), 0xffff_8004);
    assert_eq!(guest.config(0x14, 4), 0xffff_ffff);
    place(&guest, WINDOW + 0x100_0000);
    guest.bar = WINDOW + 0x100_0000;
    assert_eq!(guest.get(STATUS), 15, "moving does not reset");
    guest.assert_still_works("after a move");
}

#[test]
fn the_access_capability_reaches_bar0_and_nothing_else() {
    let guest = Guest::new();
    let at = guest.capability(9, Some(5));
    // BAR, offset, length in the capability; width of the data access; what is read.
    for (bar, offset, length, width, expected) in [
        (0u8, 0x12u32, 2u32, 2usize, Some(2)),
        (0, 0x14, 1, 1, Some(3)),
        (0, 0x2040, 4, 4, Some(0x4040_4040)),
        (0, 0x12, 4, 4, None),
        (0, 0x12, 2, 4, None),
        (0, 0x12, 4, 2, None),
        (0, 0x12, 3, 2, None),
        (0, 0x12, 0, 1, None),
        (0, 0x12, 0xffff_ffff, 4, None),
        (1, 0x12, 2, 2, None),
        (2, 4, 2, 2, Some(0xffff)),
        (2, 64, 2, 2, None),
        (2, 62, 4, 4, None),
        (0xff, 0x12, 2, 2, None),
        (0, 0x8000, 4, 4, None),
        (0, 0xffff_fffc, 4, 4, None),
        (0, 0x7ffc, 4, 4, Some(0xffff_ffff)),
        (0, 0x6000, 4, 4, Some(0xffff_ffff)),
    ] {
        guest.set(STATUS, 3);
        guest.write_config(at + 4, &[bar]);
        guest.write_config(at + 8, &offset.to_le_bytes());
        guest.write_config(at + 12, &length.to_le_bytes());
        let data = guest.config(at + 16, width);
        // Where nothing is reached, the register reads as what was stored in it: zero.
        assert_eq!(
            data,
            expected.unwrap_or(0),
            "{bar} {offset:#x} {length} {width}"
        );
    }
    guest.write_config(at + 4, &[0]);
    guest.write_config(at + 8, &0x14u32.to_le_bytes());
    guest.write_config(at + 12, &1u32.to_le_bytes());
    guest.write_config(at + 16, &[0]);
    assert_eq!(guest.get(STATUS), 0, "a write arrives");
    // It also works while the BAR is not decoded: that is what it is for.
    guest.write_config(0x04, &[0, 0]);
    guest.write_config(at + 16, &[1]);
    assert_eq!(guest.config(at + 16, 1), 1);
    guest.write_config(0x04, &[7, 0]);
    guest.start();
    guest.run();
    lock(&guest.device).kicked.clear();
    for (offset, value) in [(4, 2), (8, 4), (12, 2)] {
        guest.write_config(at + offset, &u32::to_le_bytes(value));
    }
    guest.write_config(at + 16, &[1, 0]);
    guest.run();
    assert_eq!(lock(&guest.device).kicked, [1], "a doorbell by its port");
}

#[test]
fn both_mechanisms_see_the_same_and_ones_where_nothing_is() {
    let guest = Guest::new();
    // Device, function, register, width, value.
    for (device, function, register, len, value) in [
        (0u64, 0u64, 0u64, 4usize, 0x4842_4343),
        (0, 0, 0x0a, 2, 0x0600),
        (0, 0, 0x0e, 1, 0),
        (1, 0, 0, 4, 0x1044_1af4),
        (1, 0, 2, 2, 0x1044),
        (1, 0, 3, 1, 0x10),
        (1, 1, 0, 4, ones(4)),
        (2, 0, 0, 4, ones(4)),
        (31, 7, 0xfc, 4, ones(4)),
    ] {
        let offset = (device << 15) | (function << 12) | register;
        let why = format!("{device}.{function} {register:#x}");
        assert_eq!(read(&guest.bus, ECAM + offset, len), value, "{why}");
        let address = 0x8000_0000 | (device << 11) | (function << 8) | (register & 0xfc);
        let address = u32::try_from(address).expect("32 bits");
        guest.ports.write(0xcf8, &address.to_le_bytes());
        assert_eq!(
            read(&guest.ports, 0xcfc + register % 4, len),
            value,
            "{why}"
        );
        assert_eq!(read(&guest.ports, 0xcf8, 4), u64::from(address), "{why}");
        // Without the enable bit, or on another bus, there is nothing.
        for wrong in [address & 0x7fff_ffff, address | 0x1_0000] {
            guest.ports.write(0xcf8, &wrong.to_le_bytes());
            assert_eq!(read(&guest.ports, 0xcfc + register % 4, len), ones(len));
        }
    }
    for (offset, len, value) in [
        (0x8100, 4, 0),
        (0x8ffc, 4, 0),
        (0x8001, 2, ones(2)),
        (0x8002, 4, ones(4)),
        (0x8000, 8, ones(8)),
        (0x8000, 3, ones(3)),
    ] {
        assert_eq!(
            read(&guest.bus, ECAM + offset, len),
            value,
            "{offset:#x} {len}"
        );
    }
}

#[test]
fn a_bus_has_31_slots_and_a_window_has_an_end() {
    let guest = Guest::new();
    for _ in 2..32 {
        guest.add();
    }
    assert_eq!(read(&guest.bus, ECAM + (31 << 15), 4), 0x1044_1af4);
    let function = |len| {
        let mapper = Arc::new(NoMapper);
        let function = crate::window_memory::WindowMemory::new(len, mapper);
        Arc::new(Mutex::new(function.expect("a power of two")))
    };
    assert_eq!(guest.root.add(function(0x1000)), Err(PciError::NoSlot));
    let root = PciRoot::new(
        Arc::new(Bus::new()),
        vec![LOW_WINDOW, WINDOW..WINDOW + 0x3000],
    );
    for (len, expected) in [
        (0x1000, None),
        (0x4000, Some(0x4000)),
        (0x2000, Some(0x2000)),
        (1 << 63, Some(1 << 63)),
    ] {
        let got = root.add(function(len)).err();
        assert_eq!(
            got,
            expected.map(|len| PciError::NoRoom { len }),
            "{len:#x}"
        );
    }
}

#[test]
fn a_window_of_ports_has_an_end() {
    let (bus, ports) = (Arc::new(Bus::new()), Arc::new(Bus::new()));
    let memory = vec![LOW_WINDOW, WINDOW..WINDOW_END];
    let guest = Guest::new();
    let function = || {
        let services = HostServices {
            memory: guest.memory.clone(),
            router: guest.router.clone(),
            notify: guest.notify.clone(),
        };
        let device = Arc::new(Mutex::new(Fake::default()));
        let function = VirtioPci::new(device, &guest.event_loop, services);
        Arc::new(Mutex::new(function.expect("made")))
    };
    let none = PciRoot::new(bus.clone(), memory.clone());
    assert_eq!(none.add(function()), Err(PciError::NoRoom { len: 64 }));
    // Two places, of which the first one is not on a boundary.
    let root = PciRoot::new(bus, memory).with_ports(ports, 0xc020..0xc0c0);
    for expected in [0xc041, 0xc081] {
        let function = function();
        root.add(function.clone()).expect("room");
        let register = lock(&function).configuration().double_word(0x18);
        assert_eq!(register, expected);
    }
    assert_eq!(root.add(function()), Err(PciError::NoRoom { len: 64 }));
    assert!(root.remove(Slot::new(1).expect("a slot")));
    assert!(root.add(function()).is_ok(), "its ports are free again");
}

struct NoMapper;

impl crate::window_memory::SlotMapper for NoMapper {
    fn map(&self, _address: u64) -> io::Result<()> {
        Ok(())
    }
    fn unmap(&self) {}
}
