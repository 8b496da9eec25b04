//! B2-2, B2-6 and B2-7: heads, indexes and event fields of the rings, and memory that changes under the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_queue::desc::{RawDescriptor, split};
use vm_memory::{Bytes as _, GuestAddress};

use super::Case;
use super::machine::{BUFFERS, Machine, TABLE};
use crate::fake::{Descriptor, INDIRECT, NEXT, QUEUE, WRITE};
use crate::virtio::Memory;

/// Good requests after which the indexes are about to wrap, and so many more that they have.
const BEFORE_WRAP: u32 = 65_520;
const OVER_WRAP: u32 = 48;

/// Requests during which another thread writes to memory as fast as it can.
const RACES: usize = 200;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = indexes();
    cases.extend(in_flight());
    cases.extend(events());
    cases
}

fn indexes() -> Vec<Case> {
    const ROW: &str = "B2-2";
    let mut cases = Vec::new();
    for next in [QUEUE, QUEUE + 1, 0x7fff, 0x8000, 0xffff] {
        for place in [0, 1] {
            let name = format!("next_{next:#x}_of_{place}");
            cases.push(Case::new(ROW, name, move |machine| {
                let mut chain = machine.good_chain();
                chain[place].2 |= NEXT;
                chain[place].3 = next;
                machine.offer(&chain, &[0]);
            }));
        }
    }
    for head in [QUEUE, QUEUE + 1, 0x100, 0x7fff, 0x8000, 0xffff] {
        cases.push(Case::new(ROW, format!("head_{head:#x}"), move |machine| {
            let chain = machine.good_chain();
            machine.offer(&chain, &[head]);
        }));
        let name = format!("head_{head:#x}_after_a_good_one");
        cases.push(Case::new(ROW, name, move |machine| {
            let chain = machine.good_chain();
            machine.offer(&chain, &[0, head, 0]);
        }));
    }
    cases.push(Case::new(ROW, "all_entries_are_one_head", |machine| {
        let chain = machine.good_chain();
        machine.offer(&chain, &[0; 16]);
    }));
    cases.push(Case::new(
        ROW,
        "heads_in_the_middle_of_a_chain",
        |machine| {
            let chain = machine.good_chain();
            machine.offer(&chain, &[1, 0, 1]);
        },
    ));
    for by in [
        1,
        2,
        QUEUE,
        QUEUE + 1,
        2 * QUEUE,
        0x7fff,
        0x8000,
        0xfff0,
        0xffff,
    ] {
        cases.push(Case::new(
            ROW,
            format!("index_jumps_{by:#x}"),
            move |machine| {
                machine.jump(by);
            },
        ));
        let name = format!("index_jumps_{by:#x}_after_a_good_one");
        cases.push(Case::new(ROW, name, move |machine| {
            machine.good();
            machine.jump(by);
        }));
    }
    cases.push(Case::new(ROW, "indexes_wrap", |machine| {
        many(machine, BEFORE_WRAP);
        machine.good();
        many(machine, OVER_WRAP);
        machine.jump(QUEUE + 1);
    }));
    cases
}

/// So many good requests and a few more, as many at a time as the queue takes.
fn many(machine: &mut Machine, count: u32) {
    let heads = [0; QUEUE as usize];
    // The same head: of a queue whose chains are held for a while it can be there only once.
    let at_once = if machine.target.holds() { 1 } else { QUEUE };
    for _ in 0..count.div_ceil(at_once.into()) {
        let chain = machine.good_chain();
        machine.offer(&chain, &heads[..usize::from(at_once)]);
        machine.serve();
    }
}

fn in_flight() -> Vec<Case> {
    const ROW: &str = "B2-6";
    vec![
        Case::new(ROW, "two_heads_share_buffers", |machine| {
            let chain = machine.good_chain();
            let mut both = chain.clone();
            let shift = u16::try_from(chain.len()).expect("few");
            both.extend(
                chain
                    .iter()
                    .map(|(address, len, flags, next)| (*address, *len, *flags, next + shift)),
            );
            machine.offer(&both, &[0, shift, 0, shift]);
        }),
        Case::new(ROW, "one_head_twice", |machine| {
            let chain = machine.good_chain();
            machine.offer(&chain, &[0, 0]);
        }),
        Case::new(ROW, "buffers_overlap", |machine| {
            let mut chain = machine.good_chain();
            let first = chain[0].0;
            for descriptor in &mut chain {
                descriptor.0 = first + 1;
            }
            machine.offer(&chain, &[0]);
        }),
        Case::new(ROW, "descriptors_change_meanwhile", |machine| {
            let chain = machine.good_chain();
            let rings = machine.rings();
            let mut hostile: Vec<Descriptor> = Vec::new();
            for (_, len, flags, _) in &chain {
                hostile.push((0x10_0000, *len, *flags, 0));
                hostile.push((u64::MAX - 8, u32::MAX, *flags, 0xffff));
                hostile.push((TABLE, 48, INDIRECT, 0));
                hostile.push((BUFFERS, 0, flags ^ WRITE, 1));
            }
            race(machine, move |memory, round| {
                let slots = chain.len();
                let slot = round % slots;
                let descriptor = match round / slots % 2 {
                    0 => chain[slot],
                    _ => hostile[round / (2 * slots) % hostile.len()],
                };
                let (address, len, flags, next) = descriptor;
                let raw = RawDescriptor::from(split::Descriptor::new(address, len, flags, next));
                let place = rings + 16 * u64::try_from(slot).expect("few");
                memory
                    .write_obj(raw, GuestAddress(place))
                    .expect("in memory");
            });
        }),
        Case::new(ROW, "buffers_change_meanwhile", |machine| {
            race(machine, |memory, round| {
                let bytes = [u8::try_from(round % 256).expect("a byte"); 64];
                for place in [BUFFERS, BUFFERS + 0x1000] {
                    memory
                        .write_slice(&bytes, GuestAddress(place))
                        .expect("in memory");
                }
            });
        }),
        Case::new(ROW, "rings_change_meanwhile", |machine| {
            let (available, used) = (machine.available(), machine.used());
            race(machine, move |memory, round| {
                let word = u16::try_from(round % 0x1_0000).expect("16 bits");
                for place in [available + 4, available + 6, used, used + 2, used + 4] {
                    memory
                        .write_obj(word, GuestAddress(place))
                        .expect("in memory");
                }
            });
        }),
    ]
}

/// Good requests while another thread, like another processor of the guest, does what `disturb` says. Nothing is
/// expected of the answers, only of the device afterwards.
fn race(machine: &mut Machine, disturb: impl Fn(&Memory, usize) + Send + 'static) {
    let over = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let (memory, over) = (Memory::clone(&machine.memory), Arc::clone(&over));
        move || {
            for round in 0_usize.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                disturb(&memory, round);
            }
        }
    });
    machine.is_chaos = true;
    for _ in 0..RACES {
        let chain = machine.good_chain();
        machine.offer(&chain, &[0, 0]);
        machine.serve();
        if machine.is_broken() {
            machine.start();
        }
    }
    over.store(true, Ordering::Relaxed);
    thread.join().expect("no panic");
    machine.start();
}

fn events() -> Vec<Case> {
    const ROW: &str = "B2-7";
    let mut cases = Vec::new();
    for (name, offset, words) in [
        // Flags, then the index.
        ("flags", 0, &[0xffff][..]),
        ("index_ahead", 2, &[5]),
        ("index_behind", 2, &[0xfff0]),
        ("flags_and_index", 0, &[0xffff, 0xffff]),
        ("entries", 4, &[0xffff; 64]),
        ("avail_event_here", 4 + 8 * 16, &[0]),
        ("avail_event_far", 4 + 8 * 16, &[0x8000]),
        ("avail_event_last", 4 + 8 * 16, &[0xffff]),
    ] {
        for event_index in [false, true] {
            let suffix = if event_index { "_event_index" } else { "" };
            let case = Case::new(ROW, format!("used_{name}{suffix}"), move |machine| {
                machine.good();
                poison(machine, machine.used() + offset, words);
                let chain = machine.good_chain();
                machine.offer(&chain, &[0]);
            });
            cases.push(if event_index {
                case.with_event_index()
            } else {
                case
            });
        }
    }
    for (name, offset, word) in [
        ("flags", 0, 0xffff),
        ("no_interrupt", 0, 1),
        ("used_event_far", 4 + 2 * 16, 0x8000),
        ("used_event_last", 4 + 2 * 16, 0xffff),
        ("used_event_ahead", 4 + 2 * 16, 100),
    ] {
        for event_index in [false, true] {
            let suffix = if event_index { "_event_index" } else { "" };
            let case = Case::new(ROW, format!("available_{name}{suffix}"), move |machine| {
                machine.good();
                poison(machine, machine.available() + offset, &[word]);
                let chain = machine.good_chain();
                machine.offer(&chain, &[0; 3]);
            });
            cases.push(if event_index {
                case.with_event_index()
            } else {
                case
            });
        }
    }
    cases
}

fn poison(machine: &Machine, place: u64, words: &[u16]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    machine.write(place, &bytes);
}
