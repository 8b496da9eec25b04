//! Vectors masked, pending, signalled and programmed in every order.

use super::*;
use crate::fake::FakeRouter;

const ENABLE: u16 = CONTROL_ENABLE;
const BOTH: u16 = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;
const MESSAGE: MsiMessage = MsiMessage {
    address: 0xfee0_1000,
    data: 0x41,
};

#[derive(Clone, Copy, Debug)]
enum Op {
    Control(u16),
    /// Entry, address and data; the mask stays.
    Program(u64, MsiMessage),
    Mask(u64),
    Unmask(u64),
    Signal(u16),
}
use Op::*;

fn apply(msix: &Msix, op: Op) {
    match op {
        Control(control) => msix.set_control(control),
        Program(entry, message) => {
            msix.write_table(entry * 16, &message.address.to_le_bytes());
            msix.write_table(entry * 16 + 8, &message.data.to_le_bytes());
        }
        Mask(entry) => msix.write_table(entry * 16 + 12, &[1, 0, 0, 0]),
        Unmask(entry) => msix.write_table(entry * 16 + 12, &[0; 4]),
        Signal(vector) => msix.signal(vector),
    }
}

fn pending(msix: &Msix) -> u64 {
    let mut bits = [0; 8];
    msix.read_pending(0, &mut bits);
    u64::from_le_bytes(bits)
}

/// Runs operations on three vectors; compares interrupts sent (vector, message) and pending bits.
fn check(ops: &[Op], sent: &[u32], still_pending: u64) {
    let router = FakeRouter::new();
    let msix = Msix::new(router.clone(), 3).expect("three vectors");
    for op in ops {
        apply(&msix, *op);
    }
    let expected: Vec<_> = sent.iter().map(|route| (*route, MESSAGE)).collect();
    assert_eq!(router.sent(), expected, "{ops:?}");
    assert_eq!(pending(&msix), still_pending, "{ops:?}");
}

#[test]
fn a_signal_is_sent_once_or_stays_pending() {
    let p = |entry| Program(entry, MESSAGE);
    for (ops, sent, still_pending) in [
        (&[Signal(0)][..], &[][..], 0),
        (&[Control(ENABLE), Signal(0)], &[], 0b1),
        (&[Control(ENABLE), p(0), Signal(0)], &[], 0b1),
        (&[Control(ENABLE), p(0), Unmask(0), Signal(0)], &[0], 0),
        (&[p(1), Unmask(1), Control(ENABLE), Signal(1)], &[1], 0),
        (&[p(1), Unmask(1), Control(BOTH), Signal(1)], &[], 0b10),
        (
            &[p(1), Unmask(1), Control(BOTH), Signal(1), Control(ENABLE)],
            &[1],
            0,
        ),
        (
            &[p(2), Control(ENABLE), Signal(2), Signal(2), Unmask(2)],
            &[2],
            0,
        ),
        (
            &[
                p(2),
                Control(ENABLE),
                Unmask(2),
                Signal(2),
                Mask(2),
                Signal(2),
            ],
            &[2],
            0b100,
        ),
        (
            &[
                p(0),
                Control(ENABLE),
                Unmask(0),
                Control(0),
                Signal(0),
                Control(ENABLE),
            ],
            &[],
            0,
        ),
        (&[Control(ENABLE), Signal(3), Signal(NO_VECTOR)], &[], 0),
        (
            &[
                Control(ENABLE),
                p(3),
                Unmask(3),
                Unmask(u64::from(u32::MAX)),
            ],
            &[],
            0,
        ),
    ] {
        check(ops, sent, still_pending);
    }
}

#[test]
fn routes_are_updated_only_when_they_change() {
    let router = FakeRouter::new();
    let msix = Msix::new(router.clone(), 3).expect("three vectors");
    let other = MsiMessage {
        address: 0xfee0_2000,
        data: 0x42,
    };
    for (op, updates) in [
        (Control(ENABLE), 0),
        (Program(0, MESSAGE), 0),
        (Unmask(0), 1),
        (Signal(0), 1),
        (Mask(0), 1),
        (Unmask(0), 1),
        (Mask(0), 1),
        (Program(0, other), 1),
        (Unmask(0), 2),
    ] {
        apply(&msix, op);
        assert_eq!(router.updates(), updates, "{op:?}");
    }
}

#[test]
fn a_refused_route_is_silent_until_it_is_programmed_again() {
    let router = FakeRouter::new();
    let msix = Msix::new(router.clone(), 1).expect("one vector");
    router.refuse(true);
    for op in [
        Control(ENABLE),
        Program(0, MESSAGE),
        Unmask(0),
        Signal(0),
        Signal(0),
    ] {
        apply(&msix, op);
    }
    assert_eq!((router.sent(), router.updates()), (vec![], 1));
    router.refuse(false);
    apply(&msix, Unmask(0));
    assert_eq!(router.sent(), [(0, MESSAGE)]);
}

#[test]
fn only_aligned_accesses_of_4_and_8_bytes_count() {
    let router = FakeRouter::new();
    let msix = Msix::new(router, 3).expect("three vectors");
    for (offset, len, counts) in [
        (0, 4, true),
        (0, 8, true),
        (8, 4, true),
        (0, 1, false),
        (0, 2, false),
        (0, 3, false),
        (2, 4, false),
        (4, 8, false),
        (0, 16, false),
        (0, 0, false),
        (48, 4, false),
        (44, 8, false),
        (u64::MAX - 7, 8, false),
        (u64::MAX, 4, false),
    ] {
        let written = vec![0x74; len];
        msix.write_table(offset, &written);
        let mut read = vec![0x55; len];
        msix.read_table(offset, &mut read);
        assert_eq!(read == written && len > 0, counts, "{offset:#x} {len}");
        if counts {
            msix.write_table(offset, &vec![0; len]);
        } else {
            assert_eq!(read, vec![0x55; len], "untouched {offset:#x} {len}");
        }
    }
}

#[test]
fn the_number_of_vectors_is_bounded() {
    for (count, good) in [(0, false), (1, true), (256, true), (257, false)] {
        assert_eq!(Msix::new(FakeRouter::new(), count).is_ok(), good, "{count}");
    }
}
