//! B2-10: interrupts, configuration space and BARs of a device that works.

use super::Case;
use super::machine::{ECAM, Machine, PORTS, WINDOW, read};
use super::registers::{CONFIG_VECTOR, PENDING, QUEUE_SELECT, QUEUE_VECTOR, TABLE};

const ROW: &str = "B2-10";

/// Command register values: memory decoding off and on, bus mastering besides.
const OFF: [u8; 2] = [0, 0];
const ON: [u8; 2] = [7, 0];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = tables();
    cases.extend(bars());
    cases.extend(spaces());
    cases
}

/// Enables MSI-X and programs the vector of the queue under attack.
fn enable_interrupts(machine: &Machine) {
    let vector = u64::from(machine.target.queue()) + 1;
    let entry = TABLE + 16 * vector;
    machine.set((entry, 8), 0xfee0_0000);
    machine.set((entry + 8, 8), 0x40);
    set_control(machine, 0x8000);
    machine.set(QUEUE_SELECT, machine.target.queue().into());
    machine.set(QUEUE_VECTOR, vector);
    machine.set(CONFIG_VECTOR, 0);
}

fn set_control(machine: &Machine, control: u16) {
    let at = capability(machine, 0x11) + 2;
    machine.write_config(at, &control.to_le_bytes());
}

/// Where the first capability with a number is.
fn capability(machine: &Machine, number: u64) -> u64 {
    let mut at = machine.config(0x34, 1);
    for _ in 0..48 {
        if machine.config(at, 1) == number {
            return at;
        }
        at = machine.config(at + 1, 1);
    }
    panic!("the capability list has no end");
}

fn tables() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, offset) in [
        ("start", 0),
        ("entry", 16),
        ("last_entry", 15 * 16),
        ("beyond_the_vectors", 17 * 16),
        ("end_of_the_page", 0xff0),
        ("control", 12),
    ] {
        for len in [1, 2, 4, 8] {
            cases.push(Case::new(
                ROW,
                format!("table_{name}_{len}"),
                move |machine| {
                    enable_interrupts(machine);
                    for around in offset.max(9) - 9..(offset + 9).min(0x1000 - 8) {
                        for value in [0, u64::MAX, 0xfee0_0000] {
                            machine.set((TABLE + around, len), value);
                            machine.get((TABLE + around, len));
                        }
                    }
                },
            ));
        }
    }
    for len in [1, 2, 4, 8] {
        cases.push(Case::new(
            ROW,
            format!("pending_bits_{len}"),
            move |machine| {
                enable_interrupts(machine);
                for offset in (0..0x100).chain(0xff0..0xff8) {
                    let before = machine.get((PENDING + offset, len));
                    machine.set((PENDING + offset, len), u64::MAX);
                    assert_eq!(machine.get((PENDING + offset, len)), before);
                }
            },
        ));
    }
    for vector in [3, 16, 17, 255, 256, 0x7fff, 0xfffe] {
        cases.push(Case::new(ROW, format!("vector_{vector}"), move |machine| {
            enable_interrupts(machine);
            for register in [QUEUE_VECTOR, CONFIG_VECTOR] {
                machine.set(register, vector);
            }
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
        }));
    }
    cases.push(Case::new(ROW, "masked_and_unmasked_meanwhile", |machine| {
        enable_interrupts(machine);
        let control = TABLE + 16 * (u64::from(machine.target.queue()) + 1) + 12;
        for round in 0..64 {
            machine.set((control, 4), round & 1);
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
            machine.serve();
        }
    }));
    cases.push(Case::new(
        ROW,
        "enabled_and_disabled_meanwhile",
        |machine| {
            enable_interrupts(machine);
            for control in [0, 0x8000, 0xc000, 0x4000, 0xffff, 0x8000] {
                set_control(machine, control);
                let chain = machine.good_chain();
                machine.offer(&chain, &[0]);
                machine.serve();
            }
            assert!(!machine.router.sent().is_empty(), "some were not masked");
        },
    ));
    cases.push(Case::new(ROW, "messages_to_nowhere", |machine| {
        enable_interrupts(machine);
        let entry = TABLE + 16 * (u64::from(machine.target.queue()) + 1);
        for address in [0, 0x1_0000, WINDOW, u64::MAX] {
            machine.set((entry, 8), address);
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
            machine.serve();
        }
    }));
    cases
}

/// Writes both halves of BAR0, and where the ports belong, with decoding off, and switches it on.
fn move_bar(machine: &Machine, address: u64) {
    machine.write_config(0x04, &OFF);
    for (register, half) in [(0x10, address), (0x14, address >> 32), (0x18, PORTS)] {
        machine.write_config(register, &half.to_le_bytes()[..4]);
    }
    machine.write_config(0x04, &ON);
}

fn bars() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, address) in [
        ("over_memory", 0x4_0000),
        ("over_its_rings", 0x1_0000),
        ("over_high_memory", 0x20_0000),
        ("at_zero", 0),
        ("over_configuration_space", ECAM),
        ("over_the_interrupt_controller", 0xfee0_0000),
        ("outside_of_windows", 0x30_0000_0000),
        ("at_the_top", 0xffff_ffff_ffff_8000),
        ("sign", 1 << 63),
        ("end_of_a_window", 0x41_0000_0000 - 0x4000),
        ("low_window", 0xc000_0000),
    ] {
        cases.push(Case::new(ROW, format!("bar_{name}"), move |machine| {
            move_bar(machine, address);
            if address == 0xc000_0000 {
                assert_eq!(read(&machine.bus, address + 0x14, 1), 15, "it has moved");
            } else {
                machine.bus.write(address, &[0; 4]);
                assert_eq!(read(&machine.bus, WINDOW + 0x14, 1), 0xff, "it is nowhere");
            }
            move_bar(machine, WINDOW);
        }));
    }
    for (name, port) in [
        ("at_zero", 0),
        ("over_a_serial_port", 0x3c0),
        ("over_the_registers_of_power", 0x600),
        ("over_configuration_ports", 0xcc0),
        ("before_the_window", PORTS - 64),
        ("behind_the_window", 0x1_0000),
        ("at_the_top", 0xffff_ffc0_u32.into()),
        ("elsewhere", 0xd040),
    ] {
        cases.push(Case::new(ROW, format!("ports_{name}"), move |machine| {
            let kept = read(&machine.ports, 0xcf8, 4);
            machine.write_config(0x18, &u64::to_le_bytes(port)[..4]);
            for len in [1, 2, 4] {
                for offset in (0..72).filter(|offset| !(0xcf8..0xd00).contains(&(port + offset))) {
                    machine.ports.write(port + offset, &[0xff; 4][..len]);
                }
            }
            machine.run();
            assert_eq!(read(&machine.ports, 0xcf8, 4), kept, "not its ports");
            move_bar(machine, WINDOW);
        }));
    }
    cases.push(Case::new(ROW, "ports_off_and_on_meanwhile", |machine| {
        for command in [[6, 0], [7, 0], [1, 0], [7, 0]].repeat(16) {
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
            machine.write_config(0x04, &command);
            machine.kick(machine.target.queue());
            machine.run();
            machine.write_config(0x04, &ON);
            machine.serve();
        }
    }));
    for register in 0x10..0x28 {
        cases.push(Case::new(
            ROW,
            format!("sized_at_{register:#x}"),
            move |machine| {
                for len in [1, 2, 4] {
                    machine.write_config(register, &[0xff; 4][..len]);
                    machine.config(register, len);
                }
                move_bar(machine, WINDOW);
            },
        ));
    }
    cases.push(Case::new(ROW, "decoding_off_and_on_meanwhile", |machine| {
        for _ in 0..64 {
            let chain = machine.good_chain();
            machine.offer(&chain, &[0]);
            machine.kick(machine.target.queue());
            machine.write_config(0x04, &OFF);
            machine.run();
            machine.write_config(0x04, &ON);
            machine.serve();
        }
    }));
    cases
}

fn spaces() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, bar, offset, len) in [
        ("bad_bar", 6, 0x14_u32, 1_u32),
        ("other_bar", 1, 0x14, 1),
        ("ports", 2, 4, 2),
        ("behind_its_ports", 2, 64, 1),
        ("bar_255", 255, 0x14, 1),
        ("bad_offset", 0, 0x8000, 4),
        ("offset_wraps", 0, u32::MAX - 3, 4),
        ("odd_offset", 0, 0x15, 4),
        ("length_0", 0, 0x14, 0),
        ("length_3", 0, 0x14, 3),
        ("length_8", 0, 0x20, 8),
        ("length_wraps", 0, 0x14, u32::MAX),
    ] {
        cases.push(Case::new(ROW, format!("window_{name}"), move |machine| {
            // The access capability is the last of the vendor capabilities.
            let mut at = machine.config(0x34, 1);
            while machine.config(at, 1) != 9 || machine.config(at + 3, 1) != 5 {
                at = machine.config(at + 1, 1);
            }
            machine.write_config(at + 4, &[bar]);
            machine.write_config(at + 8, &offset.to_le_bytes());
            machine.write_config(at + 12, &len.to_le_bytes());
            for width in [1, 2, 4] {
                machine.write_config(at + 16, &[0; 4][..width]);
                machine.config(at + 16, width);
            }
        }));
    }
    for value in [0, 0xff] {
        let name = format!("capabilities_overwritten_with_{value:#x}");
        cases.push(Case::new(ROW, name, move |machine| {
            for register in 0x34..0x100_u64 {
                machine.write_config(register, &[value]);
            }
            capability(machine, 0x11);
            capability(machine, 9);
            set_control(machine, 0);
        }));
    }
    cases.push(Case::new(ROW, "ports_of_configuration_space", |machine| {
        for port in 0xcf0..0xd08 {
            for value in [u32::MAX, 0, 0x8000_0804] {
                for len in [1, 2, 4] {
                    machine.ports.write(port, &value.to_le_bytes()[..len]);
                    read(&machine.ports, port, len);
                }
            }
        }
        move_bar(machine, WINDOW);
    }));
    cases.push(Case::new(ROW, "every_byte_of_the_bar_read", |machine| {
        for offset in 0..0x8000 {
            machine.get((offset, 1));
        }
    }));
    cases
}
