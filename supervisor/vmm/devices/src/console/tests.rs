//! Console and ring log against a driver that lies.

use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex};

use casemate_vmm_control::ring_log::{HEADER_LEN, RING_LEN, RingLog};
use vm_memory::{Bytes, GuestAddress};

use super::{Console, ConsoleSink, MAX_OUTPUT, RingFile};
use crate::fake::{Activated, INDIRECT, MEMORY, NEXT, QUEUE, WRITE};
use crate::lock;

#[derive(Default)]
struct Printed(Mutex<Vec<u8>>);

impl ConsoleSink for Printed {
    fn write(&self, bytes: &[u8]) {
        lock(&self.0).extend_from_slice(bytes);
    }
}

const TRANSMIT: usize = 1;
const DATA: u64 = 0x8000;
const BAD: u64 = MEMORY;

fn console() -> (Activated, Arc<Printed>) {
    let printed = Arc::new(Printed::default());
    let device = Console::new(printed.clone());
    (Activated::new(Arc::new(Mutex::new(device))), printed)
}

#[test]
fn what_can_be_read_is_printed_and_the_chain_comes_back() {
    let (mut guest, printed) = console();
    // Descriptors of the chain with head 0; memory at DATA holds letters. Of a malformed chain nothing is used.
    for (name, chain, expected) in [
        ("plain", &[(DATA, 4, 0, 0)][..], "abcd"),
        ("empty", &[(DATA, 0, 0, 0)], ""),
        ("two", &[(DATA, 2, NEXT, 1), (DATA + 4, 2, 0, 0)], "abef"),
        ("writable", &[(DATA, 4, WRITE, 0)], ""),
        (
            "writable first",
            &[(DATA, 2, WRITE | NEXT, 1), (DATA + 4, 2, 0, 0)],
            "",
        ),
        ("outside", &[(BAD, 4, 0, 0)], ""),
        ("over the end", &[(BAD - 2, 4, 0, 0)], ""),
        ("end of the world", &[(u64::MAX - 1, u32::MAX, 0, 0)], ""),
        (
            "good, then outside",
            &[(DATA, 2, NEXT, 1), (BAD, 2, 0, 0)],
            "",
        ),
        ("self loop", &[(DATA, 1, NEXT, 0)], ""),
        ("next is out of range", &[(DATA, 1, NEXT, 99)], ""),
        ("indirect", &[(DATA + 0x100, 16, INDIRECT, 0)], "cd"),
        ("indirect, nested", &[(DATA + 0x110, 16, INDIRECT, 0)], ""),
        (
            "indirect, not whole",
            &[(DATA + 0x100, 15, INDIRECT, 0)],
            "",
        ),
    ] {
        guest.restart();
        guest
            .memory
            .write_slice(b"abcdefgh", GuestAddress(DATA))
            .expect("in memory");
        guest.table(
            DATA + 0x100,
            &[(DATA + 2, 2, 0, 0), (DATA, 16, INDIRECT, 0)],
        );
        lock(&printed.0).clear();
        guest.offer(TRANSMIT, chain, &[0]);
        guest.kick(TRANSMIT);
        assert_eq!(lock(&printed.0).as_slice(), expected.as_bytes(), "{name}");
        assert_eq!(guest.used(TRANSMIT), [(0, 0)], "{name}");
        assert_eq!(guest.interrupt.signals(), 1, "{name}");
        assert!(!guest.interrupt.is_broken(), "{name}");
    }
}

#[test]
fn a_flood_is_cut_per_chain() {
    let (guest, printed) = console();
    guest.offer(TRANSMIT, &[(0, 0x10_0000, 0, 0)], &[0; 3]);
    guest.kick(TRANSMIT);
    assert_eq!(lock(&printed.0).len(), 3 * MAX_OUTPUT);
    assert_eq!(guest.used(TRANSMIT), [(0, 0); 3]);
}

#[test]
fn broken_rings_need_a_reset_and_input_is_left_alone() {
    let (mut guest, printed) = console();
    for heads in [&[QUEUE][..], &[0xffff], &[0; 17]] {
        guest.restart();
        guest.offer(TRANSMIT, &[(DATA, 4, 0, 0)], heads);
        guest.kick(TRANSMIT);
        assert!(guest.interrupt.is_broken(), "{heads:?}");
        let used = guest.used(TRANSMIT);
        guest.set_available(TRANSMIT, 1);
        guest.kick(TRANSMIT);
        assert_eq!(guest.used(TRANSMIT), used, "it waits for a reset");
    }
    guest.restart();
    guest.offer(0, &[(DATA, 4, WRITE, 0)], &[0]);
    guest.kick(0);
    assert_eq!(guest.used(0), []);
    assert_eq!(lock(&printed.0).as_slice(), b"");
}

#[test]
fn a_ring_file_holds_the_last_mebibyte_over_restarts() {
    let mut file = tempfile::tempfile().expect("temporary file");
    let open = || RingFile::open(file.try_clone().expect("descriptor")).expect("a log");
    open().write(b"first boot\n");
    let second = open();
    second.write(b"second boot\n");
    let mut content = Vec::new();
    file.rewind().expect("seek");
    file.read_to_end(&mut content).expect("read");
    assert_eq!(
        RingLog::read_all(&content).expect("a log"),
        b"first boot\nsecond boot\n"
    );
    for _ in 0..(RING_LEN / 1000 + 1) {
        second.write(&[b'.'; 1000]);
    }
    content.clear();
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_end(&mut content).expect("read");
    assert_eq!(content.len(), HEADER_LEN + RING_LEN);
    assert_eq!(
        RingLog::read_all(&content).expect("a log"),
        vec![b'.'; RING_LEN]
    );
}
