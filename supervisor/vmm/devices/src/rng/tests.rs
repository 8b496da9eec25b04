//! Random numbers against a driver that asks for too much, too often, or nonsense.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::{Clock, Rng};
use crate::fake::{Activated, Descriptor, INDIRECT, MEMORY, NEXT, QUEUE, WRITE};
use crate::lock;

/// Time as the test says.
#[derive(Clone, Debug, Default)]
struct Hand(Arc<Mutex<Duration>>);

impl Clock for Hand {
    fn now(&self) -> Duration {
        *lock(&self.0)
    }
}

fn rng() -> (Activated, Hand) {
    let hand = Hand::default();
    let device = Rng::new(Box::new(hand.clone())).expect("timer");
    (Activated::new(Arc::new(Mutex::new(device))), hand)
}

const DATA: u64 = 0x8000;
const BAD: u64 = MEMORY;
/// Well under the bucket.
const GOOD: &[Descriptor] = &[(DATA, 64, WRITE, 0)];

#[test]
fn hostile_chains_are_completed_and_the_next_request_is_served() {
    // Descriptors of the chain with head 0, and how many bytes the device says it wrote.
    for (name, chain, written) in [
        ("plain", GOOD, 64),
        ("empty buffer", &[(DATA, 0, WRITE, 0)], 0),
        (
            "two",
            &[(DATA, 10, WRITE | NEXT, 1), (DATA + 99, 20, WRITE, 0)],
            30,
        ),
        ("readable", &[(DATA, 64, 0, 0)], 0),
        (
            "readable first",
            &[(DATA, 64, NEXT, 1), (DATA, 16, WRITE, 0)],
            16,
        ),
        (
            "readable last",
            &[(DATA, 64, NEXT | WRITE, 1), (DATA, 16, 0, 0)],
            0,
        ),
        ("4 GiB", &[(DATA, u32::MAX, WRITE, 0)], 0),
        (
            "as much as there is",
            &[(0x4_0000, 0xc_0000, WRITE, 0)],
            0x1_0000,
        ),
        (
            "over 4 GiB",
            &[(DATA, 64, WRITE | NEXT, 1), (DATA, u32::MAX, WRITE, 0)],
            0,
        ),
        ("outside", &[(BAD, 64, WRITE, 0)], 0),
        ("over the end", &[(BAD - 32, 64, WRITE, 0)], 0),
        ("at the end", &[(BAD - 64, 64, WRITE, 0)], 64),
        ("end of the world", &[(u64::MAX - 8, 64, WRITE, 0)], 0),
        (
            "good, then outside",
            &[(DATA, 8, WRITE | NEXT, 1), (BAD, 8, WRITE, 0)],
            0,
        ),
        ("self loop", &[(DATA, 8, WRITE | NEXT, 0)], 0),
        (
            "loop of two",
            &[(DATA, 8, WRITE | NEXT, 1), (DATA, 8, WRITE | NEXT, 0)],
            0,
        ),
        ("next is out of range", &[(DATA, 8, WRITE | NEXT, QUEUE)], 0),
        (
            "next is far out of range",
            &[(DATA, 8, WRITE | NEXT, 0xffff)],
            0,
        ),
        ("unknown flags", &[(DATA, 8, WRITE | 0xfff8, 0)], 8),
        ("indirect", &[(DATA, 32, INDIRECT, 0)], 48),
        ("indirect, not whole", &[(DATA, 31, INDIRECT, 0)], 0),
        ("indirect, empty", &[(DATA, 0, INDIRECT, 0)], 0),
        ("indirect, nested", &[(DATA + 0x100, 16, INDIRECT, 0)], 0),
        ("indirect, outside", &[(BAD, 32, INDIRECT, 0)], 0),
        ("indirect, too long", &[(DATA, 0x10_0000, INDIRECT, 0)], 0),
    ] {
        let (guest, _) = rng();
        guest.table(
            DATA,
            &[
                (DATA + 0x200, 16, WRITE | NEXT, 1),
                (DATA + 0x200, 32, WRITE, 0),
            ],
        );
        guest.table(DATA + 0x100, &[(DATA, 32, INDIRECT, 0)]);
        guest.offer(0, chain, &[0]);
        guest.kick(0);
        assert_eq!(guest.used(0), [(0, written)], "{name}");
        guest.offer(0, GOOD, &[0]);
        guest.kick(0);
        assert_eq!(guest.used(0), [(0, written), (0, 64)], "{name}");
        assert!(!guest.interrupt.is_broken(), "{name}");
    }
}

#[test]
fn broken_rings_need_a_reset_and_get_over_it() {
    let (mut guest, _) = rng();
    for (name, heads, jump) in [
        ("head is the size", &[QUEUE][..], 0),
        ("head is far out", &[0xffff], 0),
        ("runs ahead by one too many", &[], QUEUE + 1),
        ("runs back", &[], 0xffff),
    ] {
        guest.restart();
        guest.offer(0, GOOD, heads);
        if jump != 0 {
            guest.set_available(0, jump);
        }
        guest.kick(0);
        assert!(guest.interrupt.is_broken(), "{name}");
        assert_eq!(guest.used(0), [], "{name}");
        guest.offer(0, GOOD, &[0]);
        guest.kick(0);
        assert_eq!(guest.used(0), [], "{name}: it waits for a reset");
        guest.restart();
        guest.offer(0, GOOD, &[0]);
        guest.kick(0);
        assert_eq!(guest.used(0), [(0, 64)], "{name}");
    }
}

#[test]
fn bytes_are_written_and_differ() {
    let (guest, _) = rng();
    let read = || {
        let mut bytes = [0; 64];
        guest
            .memory
            .read_slice(&mut bytes, GuestAddress(DATA))
            .expect("in memory");
        bytes
    };
    let before = read();
    guest.offer(0, GOOD, &[0]);
    guest.kick(0);
    let first = read();
    guest.offer(0, GOOD, &[0]);
    guest.kick(0);
    assert_ne!(first, before);
    assert_ne!(read(), first);
    assert_eq!(guest.interrupt.signals(), 2);
}

#[test]
fn a_greedy_guest_waits_for_the_bucket() {
    let (guest, hand) = rng();
    let kick = 0;
    let timer = 1;
    guest.offer(0, &[(DATA, 0x1_0000, WRITE, 0)], &[0; 6]);
    guest.kick(0);
    let burst = vec![(0, 0x1_0000); 4];
    assert_eq!(guest.used(0), burst);
    guest.ready(kick);
    guest.ready(timer);
    assert_eq!(guest.used(0), burst, "no time, no bytes");
    *lock(&hand.0) = Duration::from_millis(10);
    guest.ready(timer);
    assert_eq!(guest.used(0)[4..], [(0, 10_485)], "10 ms of 1 MiB a second");
    *lock(&hand.0) = Duration::from_secs(1);
    guest.ready(timer);
    assert_eq!(guest.used(0).len(), 6);
}
