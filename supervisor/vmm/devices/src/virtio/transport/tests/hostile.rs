//! Sweeps: every register, every width, values that mean something somewhere; then a good driver must still succeed.

use super::*;

const VALUES: [u64; 7] = [
    0,
    1,
    0x8000_0000_8000_8081,
    0xffff_ffff_ffff_ffff,
    0x1000_1000_1000_1000,
    0x0f0f_0f0f_0f0f_0f0f,
    0xffff_ffff_ffff_f000,
];

const WIDTHS: [usize; 6] = [1, 2, 3, 4, 8, 16];

fn sweep<I: Iterator<Item = u64> + Clone>(bus: &Bus, addresses: &I) {
    for value in VALUES {
        for len in WIDTHS {
            for address in addresses.clone() {
                let mut data = [value.to_le_bytes(), value.to_le_bytes()].concat();
                bus.write(address, &data[..len]);
                bus.read(address, &mut data[..len]);
            }
        }
    }
}

#[test]
fn bar0_survives_every_access_in_every_state() {
    let guest = Guest::new();
    let unchanged = guest.guard_memory();
    // Pages end to end densely at their beginnings and ends, sparsely between.
    let offsets = (0..0x8000).filter(|offset| {
        let within = offset % 0x1000;
        !(0x50..0xff0).contains(&within) || within % 0x101 == 0
    });
    for status in [0, 1, 3, 11, 15, 143] {
        guest.start();
        guest.set(STATUS, 0);
        if status >= 11 {
            guest.negotiate(VERSION_1);
            guest.set_up_queues();
            guest.enable_queues();
        }
        guest.set(STATUS, status);
        sweep(
            &guest.bus,
            &offsets.clone().map(|offset| guest.bar + offset),
        );
        guest.set(STATUS, 0);
        guest.assert_still_works(&format!("after a sweep from status {status}"));
        guest.set(STATUS, 0);
    }
    unchanged();
}

#[test]
fn queues_that_do_not_exist_have_no_registers() {
    let guest = Guest::new();
    guest.negotiate(VERSION_1);
    guest.set_up_queues();
    for select in [2, 3, 16, 255, 256, 0x7fff, 0xffff] {
        guest.set(QUEUE_SELECT, select);
        for value in VALUES {
            for offset in 0x18..0x38 {
                for len in [1, 2, 4, 8] {
                    guest.set((offset, len), value);
                }
            }
        }
        for (register, value) in [
            (QUEUE_SELECT, select),
            (QUEUE_SIZE, 0),
            (QUEUE_VECTOR, 0xffff),
            (QUEUE_ENABLE, 0),
            (QUEUE_NOTIFY, 0),
            (QUEUE_DESCRIPTORS, 0),
            (QUEUE_DRIVER, 0),
            (QUEUE_DEVICE, 0),
        ] {
            assert_eq!(guest.get(register), value, "queue {select:#x} {register:?}");
        }
    }
    guest.set(QUEUE_SELECT, 1);
    for (register, value) in [
        (QUEUE_SIZE, 16),
        (QUEUE_VECTOR, 2),
        (QUEUE_ENABLE, 0),
        (QUEUE_NOTIFY, 1),
        (QUEUE_DESCRIPTORS, 0x5000),
        ((0x20, 4), 0x5000),
        ((0x24, 4), 0),
    ] {
        assert_eq!(guest.get(register), value, "queue 1 {register:?}");
    }
}

#[test]
fn registers_answer_only_to_their_width() {
    let guest = Guest::new();
    guest.negotiate(VERSION_1);
    let registers = [
        OFFERED_SELECT,
        OFFERED,
        ACCEPTED_SELECT,
        ACCEPTED,
        CONFIG_VECTOR,
        QUEUES,
        STATUS,
        GENERATION,
        QUEUE_SELECT,
        QUEUE_SIZE,
        QUEUE_VECTOR,
        QUEUE_ENABLE,
        QUEUE_NOTIFY,
    ];
    for (offset, width) in registers {
        for len in [1, 2, 4, 8] {
            if len != width {
                assert_eq!(guest.get((offset, len)), ones(len), "{offset:#x} {len}");
            }
        }
    }
    for (offset, len) in [
        (0x20, 1),
        (0x20, 2),
        (0x22, 4),
        (0x24, 8),
        (0x38, 2),
        (0x3a, 2),
        (0xffc, 4),
    ] {
        assert_eq!(guest.get((offset, len)), ones(len), "{offset:#x} {len}");
    }
}

#[test]
fn configuration_space_survives_every_write() {
    let guest = Guest::new();
    guest.start();
    let unchanged = guest.guard_memory();
    sweep(
        &guest.bus,
        &(0..0x1000).map(|register| ECAM + 0x8000 + register),
    );
    sweep(&guest.bus, &(0..0x100).map(|register| ECAM + register));
    sweep(&guest.ports, &(0xcf0..0xd08));
    assert_eq!(guest.config(0x00, 4), 0x1044_1af4);
    guest.write_config(0x04, &[0, 0]);
    let [low, high] = [WINDOW & 0xffff_ffff, WINDOW >> 32];
    guest.write_config(0x10, &low.to_le_bytes()[..4]);
    guest.write_config(0x14, &high.to_le_bytes()[..4]);
    guest.write_config(0x18, &PORTS.to_le_bytes()[..4]);
    guest.write_config(0x04, &[7, 0]);
    guest.assert_still_works("after a sweep of configuration space");
    unchanged();
}

#[test]
fn resets_and_kicks_in_any_number_leave_nothing_behind() {
    let guest = Guest::new();
    for _ in 0..1000 {
        guest.start();
        guest.ring(0);
        guest.set(STATUS, 0);
        guest.ring(1);
        guest.run();
    }
    let device = lock(&guest.device);
    assert_eq!((device.activations, device.resets), (1000, 1000));
    drop(device);
    guest.assert_still_works("after a thousand resets");
}
