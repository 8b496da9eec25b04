//! Where BAR0 is, and the three ways to it.

use super::*;

const LEN: u64 = 0x8000;

/// Moves BAR0 while decoding stays on, high half first.
fn place(guest: &Guest, address: u64) {
    let [low, high] = [address & 0xffff_ffff, address >> 32];
    guest.write_config(0x14, &high.to_le_bytes()[..4]);
    guest.write_config(0x10, &low.to_le_bytes()[..4]);
}

#[test]
fn the_bar_and_its_notifications_follow_the_guest() {
    let guest = Guest::new();
    let second = guest.add();
    // Its BAR is placed behind ours, and enabled.
    guest.bus.write(ECAM + 0x1_0000 + 4, &[2, 0]);
    let others = [WINDOW + LEN + 0x3000, WINDOW + LEN + 0x3004];
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
        let mut watched = guest.notify.watched();
        watched.retain(|address| !others.contains(address));
        if decoded {
            assert_eq!(read(&guest.bus, base + 0x12, 2), 2, "{address:#x}");
            assert_eq!(watched, [base + 0x3000, base + 0x3004], "{address:#x}");
        } else {
            assert!(watched.is_empty(), "{address:#x}: {watched:#x?}");
        }
    }
    guest.write_config(0x04, &[4, 0]);
    assert_eq!(read(&guest.bus, WINDOW + 2 * LEN + 0x12, 2), 0xffff, "off");
    assert_eq!(
        guest.notify.watched(),
        others,
        "the other function is as it was"
    );
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

struct NoMapper;

impl crate::window_memory::SlotMapper for NoMapper {
    fn map(&self, _address: u64) -> io::Result<()> {
        Ok(())
    }
    fn unmap(&self) {}
}
