//! B2-8 and B2-9: configuration after it was frozen, queues that cannot be, and the status register out of order.

use super::Case;
use super::machine::{ECAM, Machine, PORTS, WINDOW, rings};
use super::registers::{
    ACCEPTED, ACCEPTED_SELECT, CONFIG_VECTOR, QUEUE_DESCRIPTORS, QUEUE_DEVICE, QUEUE_DRIVER,
    QUEUE_ENABLE, QUEUE_SELECT, QUEUE_SIZE, QUEUE_VECTOR, Register, STATUS,
};
use crate::fake::QUEUE;

/// Resets in the middle of something, and kicks of one storm; each on every queue.
const RESETS: usize = 1000;
const KICKS: usize = 125_000;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = frozen();
    cases.extend(unusable());
    cases.extend(states());
    cases.extend(storms());
    cases
}

/// Registers of a working queue: a write changes nothing.
fn frozen() -> Vec<Case> {
    const ROW: &str = "B2-8";
    let moved = rings(8);
    let mut cases = Vec::new();
    let writes: [(&str, Register, u64); 17] = [
        ("size_0", QUEUE_SIZE, 0),
        ("size_1", QUEUE_SIZE, 1),
        ("size_8", QUEUE_SIZE, 8),
        ("size_17", QUEUE_SIZE, 17),
        ("size_256", QUEUE_SIZE, 256),
        ("size_0x8000", QUEUE_SIZE, 0x8000),
        ("table", QUEUE_DESCRIPTORS, moved),
        ("table_low", (0x20, 4), moved),
        ("table_high", (0x24, 4), 1),
        ("available_ring", QUEUE_DRIVER, moved),
        ("available_ring_high", (0x2c, 4), 0xffff_ffff),
        ("used_ring", QUEUE_DEVICE, moved),
        ("used_ring_low", (0x30, 4), 0xffff_fff0),
        ("used_ring_high", (0x34, 4), 0xffff_ffff),
        ("disabled", QUEUE_ENABLE, 0),
        ("enabled_again", QUEUE_ENABLE, 1),
        ("enabled_twice", QUEUE_ENABLE, 2),
    ];
    for (name, register, value) in writes {
        cases.push(Case::new(ROW, format!("late_{name}"), move |machine| {
            machine.set(QUEUE_SELECT, machine.target.queue().into());
            let before = machine.get(register);
            machine.set(register, value);
            assert_eq!(machine.get(register), before, "it is frozen");
        }));
    }
    for (name, value) in [("none", 0), ("all", 0xffff_ffff)] {
        cases.push(Case::new(
            ROW,
            format!("late_features_{name}"),
            move |machine| {
                for half in 0..4 {
                    machine.set(ACCEPTED_SELECT, half);
                    let before = machine.get(ACCEPTED);
                    machine.set(ACCEPTED, value);
                    assert_eq!(machine.get(ACCEPTED), before, "they are frozen");
                }
            },
        ));
    }
    for vector in [0, 1, 100, 0x7fff, 0xfffe, 0xffff] {
        cases.push(Case::new(
            ROW,
            format!("late_vector_{vector:#x}"),
            move |machine| {
                machine.set(QUEUE_SELECT, machine.target.queue().into());
                machine.set(QUEUE_VECTOR, vector);
                machine.set(CONFIG_VECTOR, vector);
            },
        ));
    }
    for select in [0xff, 0x100, 0x7fff, 0xffff] {
        let name = format!("registers_of_queue_{select:#x}");
        cases.push(Case::new(ROW, name, move |machine| {
            machine.set(QUEUE_SELECT, select);
            for offset in 0x18..0x40 {
                for len in [1, 2, 4, 8] {
                    machine.set((offset, len), u64::MAX);
                    machine.get((offset, len));
                }
            }
        }));
    }
    cases
}

/// Queues that a device cannot use: it says so, and a reset helps.
fn unusable() -> Vec<Case> {
    const ROW: &str = "B2-8";
    let mut cases = Vec::new();
    for size in [0, 3, 15, 257, 0x8000, 0xffff] {
        let name = format!("size_{size:#x}_is_none");
        cases.push(
            Case::new(ROW, name, move |machine| {
                describe(machine);
                machine.set(QUEUE_SELECT, machine.target.queue().into());
                machine.set(QUEUE_SIZE, size);
                assert_eq!(machine.get(QUEUE_SIZE), u64::from(QUEUE), "it is ignored");
                enable(machine);
                assert!(!machine.is_broken());
            })
            .before_start(),
        );
    }
    for (ring, register, align) in [
        ("table", QUEUE_DESCRIPTORS, 8),
        ("available_ring", QUEUE_DRIVER, 1),
        ("used_ring", QUEUE_DEVICE, 2),
    ] {
        for (place, address) in [
            ("unaligned", rings(8) + align),
            ("in_the_hole", 0x10_0000),
            ("over_the_low_end", 0x10_0000 - 16),
            ("at_the_high_end", 0x40_0000),
            ("in_a_bar", WINDOW),
            ("in_configuration_space", ECAM),
            ("at_the_top", u64::MAX - 15),
            ("past_the_top", 1 << 63),
        ] {
            cases.push(
                Case::new(ROW, format!("{ring}_{place}"), move |machine| {
                    describe(machine);
                    machine.set(QUEUE_SELECT, machine.target.queue().into());
                    machine.set(register, address);
                    enable(machine);
                    assert!(machine.is_broken(), "it cannot be used");
                    machine.kick(machine.target.queue());
                    machine.run();
                })
                .before_start(),
            );
        }
    }
    cases.push(
        Case::new(ROW, "rings_on_one_another", |machine| {
            describe(machine);
            machine.set(QUEUE_SELECT, machine.target.queue().into());
            for register in [QUEUE_DESCRIPTORS, QUEUE_DRIVER, QUEUE_DEVICE] {
                machine.set(register, rings(8));
            }
            machine.write(rings(8), &[0; 0x200]);
            machine.write(rings(8), &[0, 0, 1, 0]);
            enable(machine);
            machine.kick(machine.target.queue());
            machine.run();
        })
        .before_start(),
    );
    cases.push(
        Case::new(ROW, "not_enabled", |machine| {
            describe(machine);
            machine.set(STATUS, 15);
            assert!(machine.is_broken(), "it has no queues");
        })
        .before_start(),
    );
    cases
}

/// All queues of the device as a good driver describes them.
fn describe(machine: &mut Machine) {
    machine.negotiate();
    for index in machine.queues() {
        machine.describe_queue(index);
    }
}

/// Enables all queues and the device.
fn enable(machine: &Machine) {
    for index in machine.queues() {
        machine.set(QUEUE_SELECT, index.into());
        machine.set(QUEUE_ENABLE, 1);
    }
    machine.set(STATUS, 15);
    machine.run();
}

/// The status register out of order. Values written, and what it then reads.
fn states() -> Vec<Case> {
    const ROW: &str = "B2-9";
    let mut cases = Vec::new();
    for (name, writes, reads) in [
        ("driver_first", &[0, 2][..], 0),
        ("driver_ok_first", &[0, 4], 0),
        ("without_features_ok", &[0, 1, 3, 7], 3),
        ("everything_at_once", &[0, 0xff], 0x80),
        ("failed", &[0, 1, 3, 0x83], 0x83),
        ("failed_then_ok", &[0, 1, 3, 0x83, 0x8f], 0x83),
        ("unknown_bits", &[0, 0x30], 0),
        ("needs_reset_by_the_driver", &[0, 1, 0x41], 1),
    ] {
        cases.push(
            Case::new(ROW, name, move |machine| {
                for value in writes {
                    machine.set(STATUS, *value);
                }
                assert_eq!(machine.get(STATUS), reads);
                machine.kick(machine.target.queue());
                machine.run();
            })
            .before_start(),
        );
    }
    for (name, value) in [
        ("clears_driver_ok", 11),
        ("clears_features_ok", 7),
        ("clears_all_but_one", 1),
        ("driver_ok_twice", 15),
        ("needs_reset_set", 79),
    ] {
        cases.push(Case::new(ROW, format!("late_{name}"), move |machine| {
            machine.set(STATUS, value);
            assert_eq!(machine.get(STATUS), 15, "steps go forward only");
        }));
    }
    cases.push(
        Case::new(ROW, "failed_while_working", |machine| {
            machine.start();
            machine.set(STATUS, 0x8f);
            assert_eq!(machine.get(STATUS), 0x8f);
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
            machine.work();
        })
        .before_start(),
    );
    cases.push(
        Case::new(ROW, "kick_before_driver_ok", |machine| {
            describe(machine);
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
            machine.kick(machine.target.queue());
            machine.run();
            assert_eq!(machine.used_of(machine.target.queue()).0, 0);
            enable(machine);
            machine.work();
        })
        .before_start(),
    );
    cases.push(
        Case::new(ROW, "kick_after_reset", |machine| {
            machine.start();
            machine.good();
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
            machine.set(STATUS, 0);
            let (before, ..) = machine.used_of(machine.target.queue());
            machine.kick(machine.target.queue());
            machine.run();
            let (after, ..) = machine.used_of(machine.target.queue());
            assert_eq!(after, before, "memory is left alone");
        })
        .before_start(),
    );
    cases.push(Case::new(ROW, "kicks_of_queues_that_are_not", |machine| {
        for port in PORTS..PORTS + 0x100 {
            for len in [1, 2, 4] {
                machine.ports.write(port, &[0xff; 4][..len]);
            }
        }
    }));
    cases
}

fn storms() -> Vec<Case> {
    const ROW: &str = "B2-9";
    vec![
        Case::new(ROW, "resets_with_requests_waiting", |machine| {
            for round in 0..RESETS {
                let chain = machine.good_chain();
                machine.offer(&chain, &[0; 4]);
                machine.kick(machine.target.queue());
                if round % 2 == 0 {
                    machine.run();
                }
                machine.start();
            }
        }),
        Case::new(ROW, "kicks", |machine| {
            machine.start();
            for round in 0..KICKS {
                machine.kick(machine.target.queue());
                if round % 1000 == 0 {
                    machine.run();
                }
            }
            machine.run();
        })
        .before_start(),
    ]
}
