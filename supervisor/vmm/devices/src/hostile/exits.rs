//! B1-2: accesses of every width around the edges of what a device decodes.

use super::Case;
use super::machine::{ECAM, Machine, PORTS, WINDOW, read};

/// Bytes on either side of an edge.
const AROUND: u64 = 9;

pub(super) fn cases() -> Vec<Case> {
    const ROW: &str = "B1-2";
    let mut cases = Vec::new();
    for page in 0..=8_u64 {
        for len in [1, 2, 3, 4, 8] {
            let name = format!("bar_page_{page}_width_{len}");
            cases.push(
                Case::new(ROW, name, move |machine| {
                    sweep(machine, WINDOW + 0x1000 * page, len);
                })
                .before_start(),
            );
        }
    }
    for (name, edge) in [
        ("header", 0x8000),
        ("bars", 0x8010),
        ("capabilities", 0x8040),
        ("end_of_the_header", 0x8100),
        ("next_function", 0x9000),
    ] {
        for len in [1, 2, 3, 4, 8] {
            let name = format!("configuration_{name}_width_{len}");
            cases.push(
                Case::new(ROW, name, move |machine| {
                    sweep(machine, ECAM + edge, len);
                    // BARs may be anywhere now.
                    for (register, value) in [(0x10, WINDOW), (0x14, WINDOW >> 32), (0x18, PORTS)] {
                        machine.write_config(register, &value.to_le_bytes()[..4]);
                    }
                    machine.write_config(0x04, &[7, 0]);
                })
                .before_start(),
            );
        }
    }
    cases
}

/// On a device that works and is reset afterwards: reads and writes, with values that mean something somewhere.
fn sweep(machine: &mut Machine, edge: u64, len: usize) {
    machine.start();
    let bus = &machine.bus;
    for address in edge.saturating_sub(AROUND)..edge + AROUND {
        for value in [0, u64::MAX, 0x8000_0000_8000_8081] {
            read(bus, address, len);
            bus.write(address, &value.to_le_bytes()[..len]);
            machine.run();
        }
    }
}
