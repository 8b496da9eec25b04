//! B2-1, B2-3, B2-4 and B2-5: descriptor chains, each a good request with something wrong.

use super::Case;
use super::machine::{BIG_TABLE, BUFFERS, ECAM, Machine, TABLE, WINDOW};
use crate::fake::{Descriptor, INDIRECT, NEXT, QUEUE, WRITE};

/// Feature bit of indirect tables.
const INDIRECT_DESC: u64 = 1 << 28;
/// Where the regions of guest memory end and begin.
const LOW_END: u64 = 0x10_0000;
const HIGH: u64 = 0x20_0000;
const HIGH_END: u64 = 0x40_0000;

/// Which descriptor of the good request is changed.
#[derive(Clone, Copy)]
enum At {
    First,
    Last,
}

impl At {
    fn of(self, chain: &mut [Descriptor]) -> &mut Descriptor {
        let place = match self {
            Self::First => chain.first_mut(),
            Self::Last => chain.last_mut(),
        };
        place.expect("a good request has two")
    }
}

/// An attack that offers a changed good request.
fn changed(
    row: &'static str,
    name: impl Into<String>,
    change: impl Fn(&mut Vec<Descriptor>) + 'static,
) -> Case {
    Case::new(row, name, move |machine| {
        let mut chain = machine.good_chain();
        change(&mut chain);
        machine.offer(&chain, &[0]);
    })
}

/// A change at the first and at the last descriptor.
fn both(
    row: &'static str,
    name: &str,
    change: impl Fn(&mut Descriptor) + Copy + 'static,
) -> [Case; 2] {
    [(At::First, "first"), (At::Last, "last")].map(|(at, place)| {
        changed(row, format!("{name}_{place}"), move |chain| {
            change(at.of(chain));
        })
    })
}

/// An attack that offers one descriptor for an indirect table; `entries` makes the table from the good request.
fn indirect(
    name: &str,
    head: Descriptor,
    entries: impl Fn(Vec<Descriptor>) -> Vec<Descriptor> + 'static,
) -> Case {
    Case::new("B2-4", name, move |machine| {
        let good = machine.good_chain();
        let entries = entries(good);
        machine.table(TABLE, &entries);
        machine.offer(&[head], &[0]);
    })
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = loops();
    cases.extend(addresses());
    cases.extend(lengths());
    cases.extend(tables());
    cases.extend(flags());
    cases
}

/// The descriptors of a table, each followed by the next but the last.
fn linked(mut entries: Vec<Descriptor>) -> Vec<Descriptor> {
    let last = entries.len() - 1;
    for (index, entry) in entries.iter_mut().enumerate() {
        entry.2 &= !NEXT;
        if index < last {
            entry.2 |= NEXT;
            entry.3 = u16::try_from(index + 1).expect("few");
        }
    }
    entries
}

/// The good request, its last buffer in as many pieces of a byte as make `count` descriptors.
fn padded(mut good: Vec<Descriptor>, count: usize) -> Vec<Descriptor> {
    let mut piece = *good.last().expect("two");
    piece.1 = 1;
    good.resize(count, piece);
    linked(good)
}

fn offer_table(machine: &mut Machine, address: u64, entries: &[Descriptor]) {
    machine.table(address, entries);
    let len = u32::try_from(16 * entries.len()).expect("small");
    machine.offer(&[(address, len, INDIRECT, 0)], &[0]);
}

fn loops() -> Vec<Case> {
    const ROW: &str = "B2-1";
    let size = usize::from(QUEUE);
    vec![
        changed(ROW, "self_loop_first", |chain| {
            chain[0].2 |= NEXT;
            chain[0].3 = 0;
        }),
        changed(ROW, "self_loop_last", |chain| {
            let last = chain.len() - 1;
            chain[last].2 |= NEXT;
            chain[last].3 = u16::try_from(last).expect("few");
        }),
        changed(ROW, "cycle", |chain| {
            let last = chain.len() - 1;
            chain[last].2 |= NEXT;
            chain[last].3 = 0;
        }),
        Case::new(ROW, "loop_in_an_indirect_table", |machine| {
            let mut entries = linked(machine.good_chain());
            let last = entries.len() - 1;
            entries[last].2 |= NEXT;
            entries[last].3 = 0;
            offer_table(machine, TABLE, &entries);
        }),
        changed(ROW, "length_is_the_size", move |chain| {
            *chain = padded(chain.clone(), size);
        }),
        Case::new(ROW, "length_is_the_size_and_one", move |machine| {
            let entries = padded(machine.good_chain(), size + 1);
            offer_table(machine, TABLE, &entries);
        }),
        Case::new(ROW, "length_is_160_and_header", |machine| {
            let entries = padded(machine.good_chain(), 162);
            offer_table(machine, TABLE, &entries);
        }),
        Case::new(ROW, "length_is_400", |machine| {
            let entries = padded(machine.good_chain(), 400);
            offer_table(machine, TABLE, &entries);
        }),
        Case::new(ROW, "length_is_65535_of_empty_buffers", |machine| {
            let entries = linked(vec![(BUFFERS, 0, 0, 0); 0xffff]);
            machine.table(BIG_TABLE, &entries);
            let head = (BIG_TABLE, 0xffff * 16, INDIRECT, 0);
            machine.offer(&[head], &[0; 16]);
        }),
        Case::new(ROW, "empty_loop_of_65535_steps", |machine| {
            machine.table(BIG_TABLE, &vec![(BUFFERS, 0, NEXT, 0); 0xffff]);
            let head = (BIG_TABLE, 0xffff * 16, INDIRECT, 0);
            machine.offer(&[head], &[0; 16]);
        }),
        Case::new(ROW, "all_heads_share_a_tail", |machine| {
            let good = machine.good_chain();
            let tail = *good.last().expect("two");
            let mut chain = vec![(tail.0, 0, (tail.2 & WRITE) | NEXT, 15); 15];
            chain.push((tail.0, tail.1, tail.2 & WRITE, 0));
            machine.offer(&chain, &(0..16).collect::<Vec<_>>());
        }),
    ]
}

fn addresses() -> Vec<Case> {
    const ROW: &str = "B2-3";
    let mut cases = Vec::new();
    for (name, address) in [
        ("last_byte", HIGH_END - 1),
        ("end", HIGH_END),
        ("hole", LOW_END),
        ("end_of_the_hole", HIGH - 1),
        ("bar", WINDOW),
        ("hole_in_a_bar", WINDOW + 0x3000),
        ("configuration_space", ECAM + 0x8000),
        ("interrupt_controller", 0xfee0_0000),
        ("top", u64::MAX),
        ("sign", 1 << 63),
    ] {
        cases.extend(both(ROW, name, move |descriptor| descriptor.0 = address));
    }
    cases.extend(both(ROW, "wraps", |descriptor| {
        descriptor.0 = 0xffff_ffff_ffff_ff00;
        descriptor.1 = 512;
    }));
    // A copy that is checked by its start only goes this far past the end of a region.
    for past in [1, 12, 0x1000, 0xffff, 0x1_0000] {
        for (name, end) in [("low", LOW_END), ("high", HIGH_END)] {
            let name = format!("past_the_{name}_end_by_{past:#x}");
            cases.extend(both(ROW, &name, move |descriptor| {
                descriptor.1 = 0x1_0000;
                descriptor.0 = end - 0x1_0000 + past;
            }));
        }
    }
    cases.extend(both(ROW, "over_the_hole", |descriptor| {
        descriptor.0 = LOW_END - 0x1000;
        descriptor.1 = 0x10_2000;
    }));
    for (name, ring) in [("table", 0), ("available_ring", 1), ("used_ring", 2)] {
        for (at, place) in [(At::First, "first"), (At::Last, "last")] {
            cases.push(Case::new(ROW, format!("{name}_{place}"), move |machine| {
                let mut chain = machine.good_chain();
                let rings = [machine.rings(), machine.available(), machine.used()];
                at.of(&mut chain).0 = rings[ring];
                machine.is_chaos = true;
                machine.offer(&chain, &[0]);
            }));
        }
    }
    for (at, place) in [(At::First, "first"), (At::Last, "last")] {
        cases.push(Case::new(ROW, format!("zero_{place}"), move |machine| {
            let mut chain = machine.good_chain();
            at.of(&mut chain).0 = 0;
            machine.offer(&chain, &[0]);
        }));
        cases.push(Case::new(
            ROW,
            format!("all_of_low_{place}"),
            move |machine| {
                let mut chain = machine.good_chain();
                let descriptor = at.of(&mut chain);
                (descriptor.0, descriptor.1) = (0, 0x10_0000);
                machine.is_chaos = true;
                machine.offer(&chain, &[0]);
            },
        ));
    }
    cases
}

fn lengths() -> Vec<Case> {
    const ROW: &str = "B2-3";
    let mut cases = Vec::new();
    for len in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let name = format!("length_{len:#x}");
        cases.extend(both(ROW, &name, move |descriptor| descriptor.1 = len));
    }
    cases.extend(both(ROW, "byte_short", |descriptor| descriptor.1 -= 1));
    cases.extend(both(ROW, "byte_long", |descriptor| descriptor.1 += 1));
    cases.push(changed(ROW, "all_empty", |chain| {
        for descriptor in chain {
            descriptor.1 = 0;
        }
    }));
    cases.push(changed(ROW, "more_than_4_gib_in_all", |chain| {
        let flags = chain[0].2 | NEXT;
        let huge = |next| (BUFFERS, u32::MAX, flags, next);
        *chain = vec![huge(1), huge(2), (BUFFERS, 16, chain[0].2 & WRITE, 0)];
    }));
    cases.push(Case::new(ROW, "more_than_4_gib_of_memory", |machine| {
        let flags = machine.good_chain()[0].2 & WRITE;
        // 2 MiB that are there, 2100 times.
        let entries = linked(vec![(HIGH, 0x20_0000, flags, 0); 2100]);
        machine.is_chaos = true;
        offer_table(machine, TABLE, &entries);
    }));
    cases
}

fn tables() -> Vec<Case> {
    const ROW: &str = "B2-4";
    let head = |address, len| (address, len, INDIRECT, 0);
    let mut cases = vec![
        Case::new(ROW, "good_request", |machine| {
            let entries = linked(machine.good_chain());
            offer_table(machine, TABLE, &entries);
        }),
        Case::new(ROW, "not_negotiated", |machine| {
            let entries = linked(machine.good_chain());
            offer_table(machine, TABLE, &entries);
        })
        .without(INDIRECT_DESC),
        indirect("nested", head(TABLE, 48), |mut entries| {
            entries.insert(0, (TABLE, 48, INDIRECT, 0));
            entries
        }),
        indirect("nested_after_a_buffer", head(TABLE, 48), |entries| {
            vec![(entries[0].0, 1, NEXT, 1), (TABLE, 32, INDIRECT, 0)]
        }),
        indirect("with_next", (TABLE, 32, INDIRECT | NEXT, 1), linked),
        indirect("with_write", (TABLE, 32, INDIRECT | WRITE, 0), linked),
        indirect("shorter_than_its_chain", head(TABLE, 16), linked),
        Case::new(ROW, "after_a_buffer", |machine| {
            let entries = linked(machine.good_chain());
            machine.table(TABLE, &entries);
            let first = (BUFFERS, 1, NEXT | (entries[0].2 & WRITE), 1);
            machine.offer(&[first, (TABLE, 32, INDIRECT, 0)], &[0]);
        }),
        Case::new(ROW, "writes_over_itself", |machine| {
            let mut entries = linked(machine.good_chain());
            entries[0].0 = TABLE;
            entries[0].2 |= WRITE;
            offer_table(machine, TABLE, &entries);
        }),
        Case::new(ROW, "is_the_queues_own", |machine| {
            let rings = machine.rings();
            let mut chain = machine.good_chain();
            chain.insert(0, (rings + 16, 48, INDIRECT, 0));
            machine.offer(&chain, &[0]);
        }),
        Case::new(ROW, "is_its_own_head", |machine| {
            let rings = machine.rings();
            machine.offer(&[(rings, 16, INDIRECT, 0)], &[0]);
        }),
        Case::new(ROW, "over_the_low_end", |machine| {
            let entries = linked(machine.good_chain());
            machine.table(LOW_END - 16, &entries[..1]);
            machine.offer(&[(LOW_END - 16, 32, INDIRECT, 0)], &[0]);
        }),
        Case::new(ROW, "half_a_descriptor_in_memory", |machine| {
            machine.offer(&[(LOW_END - 8, 16, INDIRECT, 0)], &[0]);
        }),
    ];
    for len in [0, 8, 15, 17, 31, 0x10_0000, u32::MAX, u32::MAX - 15] {
        let name = format!("length_{len:#x}");
        cases.push(indirect(&name, head(TABLE, len), linked));
    }
    for (name, address) in [
        ("in_the_hole", LOW_END),
        ("in_a_bar", WINDOW),
        ("at_the_top", u64::MAX - 15),
        ("odd", TABLE + 1),
    ] {
        cases.push(indirect(name, head(address, 32), linked));
    }
    cases
}

fn flags() -> Vec<Case> {
    const ROW: &str = "B2-5";
    let mut cases = Vec::new();
    cases.extend(both(ROW, "other_direction", |descriptor| {
        descriptor.2 ^= WRITE;
    }));
    cases.extend(both(ROW, "unknown_bits", |descriptor| {
        descriptor.2 |= 0xfff8;
    }));
    cases.extend(both(ROW, "all_bits", |descriptor| descriptor.2 = 0xffff));
    cases.extend(both(ROW, "no_bits", |descriptor| descriptor.2 = 0));
    for (name, flags) in [("all_readable", 0), ("all_writable", WRITE)] {
        cases.push(changed(ROW, name, move |chain| {
            for descriptor in chain.iter_mut() {
                descriptor.2 = (descriptor.2 & NEXT) | flags;
            }
        }));
    }
    cases.push(changed(ROW, "backwards", |chain| {
        chain.reverse();
        *chain = linked(chain.clone());
    }));
    cases.push(changed(ROW, "readable_after_writable", |chain| {
        chain.push((BUFFERS, 16, WRITE, 0));
        chain.push((BUFFERS, 16, 0, 0));
        *chain = linked(chain.clone());
    }));
    cases.push(changed(ROW, "more_of_the_other_direction", |chain| {
        let other = (chain[0].2 & WRITE) ^ WRITE;
        chain.push((BUFFERS + 0x3000, 64, other, 0));
        *chain = linked(chain.clone());
    }));
    cases
}
