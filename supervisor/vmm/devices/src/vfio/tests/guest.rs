//! What a guest sees of an assigned device and what of its doing reaches the hardware.

use super::recorded::{e1000e, nvme, without_msix, xhci};
use super::*;

const COMMAND: u8 = 0x04;
const MEMORY: u8 = 1 << 1;
const BUS_MASTER: u8 = 1 << 2;
const BASE: u64 = 0x50_0000_0000;

#[test]
fn the_guest_sees_the_device_without_what_steers_the_host() {
    for (device, bars) in [
        (e1000e(), [0xfffe_0000, 0xfffe_0000, 0, 0xffff_c000, 0, 0]),
        (nvme(), [0xffff_c004, 0xffff_ffff, 0, 0, 0, 0]),
        (xhci(), [0xffff_c004, 0xffff_ffff, 0, 0, 0, 0]),
    ] {
        let fixture = Fixture::new(&device);
        let original =
            |at: usize| u32::from_le_bytes(device.config[at..at + 4].try_into().expect("4 bytes"));
        for (register, at) in [(0x00, 0x00), (0x08, 0x08), (0x2c, 0x2c)] {
            assert_eq!(fixture.config(register), original(at));
        }
        for (register, expected) in (0x10..).step_by(4).zip(bars) {
            fixture.set_config(register, &[0xff; 4]);
            assert_eq!(fixture.config(register), expected, "{register:#x}");
        }
        fixture.set_config(0x30, &[0xff; 4]);
        assert_eq!(fixture.config(0x30), 0, "no ROM");
        assert_eq!(fixture.config(0x3c) & 0xff00, 0, "no INTx pin");
        for (number, shown) in [(0x01, false), (0x05, false), (0x10, true), (0x11, true)] {
            assert_eq!(fixture.capability(number).is_some(), shown, "{number:#x}");
        }
        let express = fixture.capability(0x10).expect("shown");
        let flags = fixture.config(express) >> 16;
        assert_eq!((flags >> 4) & 0xf, 0x9, "an integrated endpoint");
        assert_eq!(fixture.asked(), [], "the hardware heard nothing of it");
    }
}

#[test]
fn nothing_a_guest_writes_to_configuration_space_reaches_the_host_but_bus_mastering() {
    let fixture = Fixture::new(&nvme());
    // Every register with every width, twice with other bits; the BAR itself stays out of the windows.
    for bits in [0xff, 0x00, 0xa5, 0x5a] {
        for register in (0..=0xff).filter(|register| *register != COMMAND) {
            for len in [1, 2, 4] {
                fixture.set_config(register, &vec![bits; len]);
            }
        }
    }
    let asked = fixture.asked();
    let only = |asked: &Asked| matches!(asked, Asked::BusMaster(_));
    assert!(asked.iter().all(only), "{asked:?}");

    fixture.set_config(COMMAND, &[0, 0]);
    fixture.asked();
    fixture.set_config(COMMAND, &[BUS_MASTER, 0]);
    fixture.set_config(COMMAND, &[BUS_MASTER, 4]);
    fixture.set_config(COMMAND, &[0, 4]);
    assert_eq!(
        fixture.asked(),
        [Asked::BusMaster(true), Asked::BusMaster(false)]
    );
}

#[test]
fn the_line_is_the_guests_to_switch_where_there_is_one() {
    let fixture = Fixture::new(&without_msix());
    assert_eq!(fixture.config(0x3c) & 0xff00, 0x0100);
    assert_eq!(fixture.capability(0x11), None);
    fixture.place(0x10, BASE);
    fixture.set_config(COMMAND, &[MEMORY, 0]);
    let asked = fixture.asked();
    assert_eq!(asked.last(), Some(&Asked::Map(0, 0, 0x4000, BASE)));
    let mut data = [0; 4];
    // Where others have a table, this one has registers.
    fixture.memory.write(BASE + 0x3000, &[7; 4]);
    fixture.memory.read(BASE + 0x3800, &mut data);
    assert_eq!(
        fixture.asked(),
        [
            Asked::Write(0, 0x3000, vec![7; 4]),
            Asked::Read(0, 0x3800, 4),
        ]
    );
    fixture.set_config(COMMAND, &[MEMORY, 4]);
    fixture.set_config(COMMAND, &[MEMORY | BUS_MASTER, 4]);
    *lock(&fixture.broken) = true;
    fixture.set_config(COMMAND, &[MEMORY | BUS_MASTER, 0]);
    *lock(&fixture.broken) = false;
    // What was refused is asked for again.
    fixture.set_config(COMMAND, &[MEMORY | BUS_MASTER, 0]);
    fixture.set_config(COMMAND, &[MEMORY | BUS_MASTER, 0]);
    let expected = [
        Asked::Line(false),
        Asked::BusMaster(true),
        Asked::Line(true),
        Asked::Line(true),
    ];
    assert_eq!(fixture.asked(), expected);
}

#[test]
fn pieces_follow_the_bar() {
    let fixture = Fixture::new(&e1000e());
    fixture.set_config(COMMAND, &[MEMORY, 0]);
    fixture.asked();
    // BAR3 has two pieces beside the table and the pending bits.
    fixture.set_config(0x1c, &0xd000_0000_u32.to_le_bytes());
    let asked = fixture.asked();
    let expected = [
        Asked::Unmap(3, 0x1000),
        Asked::Unmap(3, 0x3000),
        Asked::Map(3, 0x1000, 0x2000, 0xd000_1000),
        Asked::Map(3, 0x3000, 0x4000, 0xd000_3000),
    ];
    assert_eq!(asked, expected);
    fixture.set_config(COMMAND, &[0, 0]);
    let asked = fixture.asked();
    assert_eq!(asked.len(), 4, "all pieces of all BARs: {asked:?}");
    assert!(asked.iter().all(|asked| matches!(asked, Asked::Unmap(..))));
}

#[test]
fn msix_is_ours_and_the_rest_of_its_page_the_hardwares() {
    let fixture = Fixture::new(&xhci());
    fixture.place(0x10, BASE);
    fixture.set_config(COMMAND, &[MEMORY, 0]);
    fixture.asked();
    let message = [
        0x00, 0x10, 0xe0, 0xfe, 0, 0, 0, 0, 0x41, 0, 0, 0, 0, 0, 0, 0,
    ];
    for (index, word) in message.chunks(4).enumerate() {
        let offset = 4 * u64::try_from(index).expect("small");
        fixture.memory.write(BASE + 0x3020 + offset, word);
    }
    let mut data = [0; 8];
    fixture.memory.read(BASE + 0x3028, &mut data);
    assert_eq!(data, message[8..]);
    fixture.memory.read(BASE + 0x3800, &mut data);
    assert_eq!(data, [0; 8], "nothing pending");
    fixture.memory.write(BASE + 0x3800, &[0xff; 8]);
    // An access that is in part of the table is of nobody.
    fixture.memory.read(BASE + 0x30fc, &mut data);
    fixture.memory.write(BASE + 0x30fc, &[0xff; 8]);
    fixture.memory.write(BASE + 0x37fc, &[0xff; 8]);
    assert_eq!(data, [0xff; 8]);
    assert_eq!(
        fixture.asked(),
        [],
        "the hardware's own table stays as it is"
    );

    let mut data = [0; 4];
    fixture.memory.read(BASE + 0x3100, &mut data);
    fixture.memory.write(BASE + 0x3ffc, &[7; 4]);
    assert_eq!(data, [0x11; 4]);
    let expected = [
        Asked::Read(0, 0x3100, 4),
        Asked::Write(0, 0x3ffc, vec![7; 4]),
    ];
    assert_eq!(fixture.asked(), expected);

    // Enabled, the vector is sent; masked, it waits.
    let control = fixture.capability(0x11).expect("shown") + 2;
    fixture.set_config(control, &[0, 0x80]);
    fixture.msix.signal(2);
    assert_eq!(fixture.router.sent().len(), 1);
    fixture.memory.write(BASE + 0x302c, &[1, 0, 0, 0]);
    fixture.msix.signal(2);
    assert_eq!(fixture.router.sent().len(), 1);
    fixture.memory.read(BASE + 0x3800, &mut data);
    assert_eq!(data, [4, 0, 0, 0]);
    fixture.memory.write(BASE + 0x302c, &[0; 4]);
    assert_eq!(fixture.router.sent().len(), 2);
}

#[test]
fn a_vector_of_the_hardware_is_the_same_vector_of_the_guest() {
    let fixture = Fixture::new(&xhci());
    let looper = crate::event_loop::EventLoop::new().expect("epoll");
    let vectors = Vectors::new(Arc::clone(&fixture.msix)).expect("descriptors");
    let descriptors: Vec<_> = vectors
        .descriptors()
        .iter()
        .map(|descriptor| descriptor.try_clone().expect("a descriptor"))
        .collect();
    assert_eq!(descriptors.len(), 16);
    vectors.watch(&looper).expect("epoll");
    fixture.place(0x10, BASE);
    fixture.set_config(COMMAND, &[MEMORY, 0]);
    let control = fixture.capability(0x11).expect("shown") + 2;
    fixture.set_config(control, &[0, 0x80]);
    // All are masked: a storm is one pending bit.
    for _ in 0..1_000_000 {
        descriptors[5].write(1).expect("room");
    }
    looper.run_ready().expect("epoll");
    let mut pending = [0; 4];
    fixture.memory.read(BASE + 0x3800, &mut pending);
    assert_eq!(pending, [1 << 5, 0, 0, 0]);
    assert_eq!(fixture.router.sent().len(), 0);
}

#[test]
fn broken_hardware_reads_as_ones_and_hurts_nobody() {
    let fixture = Fixture::new(&nvme());
    *lock(&fixture.broken) = true;
    fixture.place(0x10, BASE);
    fixture.set_config(COMMAND, &[MEMORY | BUS_MASTER, 0]);
    let mut data = [0; 4];
    fixture.memory.read(BASE, &mut data);
    assert_eq!(data, [0xff; 4]);
    fixture.memory.write(BASE, &[1; 4]);
    fixture.place(0x10, BASE + 0x10_0000);
    fixture.asked();
    // Bus mastering that was refused is asked for again.
    *lock(&fixture.broken) = false;
    fixture.set_config(COMMAND, &[MEMORY | BUS_MASTER, 0]);
    assert_eq!(fixture.asked(), [Asked::BusMaster(true)]);
}

#[test]
fn an_unplugged_device_is_quiet_before_it_is_given_back() {
    let fixture = Fixture::new(&nvme());
    fixture.place(0x10, BASE);
    fixture.set_config(COMMAND, &[MEMORY | BUS_MASTER, 0]);
    fixture.asked();
    let slot = crate::pci::Slot::new(1).expect("a slot");
    assert!(fixture.root.remove(slot));
    let expected = [Asked::Unmap(0, 0), Asked::BusMaster(false)];
    assert_eq!(fixture.asked(), expected, "not dropped on this thread");
    lock(&fixture.retired).clear();
    assert_eq!(fixture.asked(), [Asked::Dropped]);
    let mut data = [0; 4];
    fixture.memory.read(BASE, &mut data);
    assert_eq!((data, fixture.config(0)), ([0xff; 4], u32::MAX));
    assert!(!fixture.root.remove(slot));
}
