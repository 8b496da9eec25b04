//! What a guest gives back reads as zeroes on every kind of memory, and nothing else is touched.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::{Balloon, BalloonHandle, PAGE, discard};
use crate::fake::{Activated, Descriptor, MEMORY, QUEUE, WRITE};
use crate::lock;
use crate::virtio::VirtioDevice as _;

const LEN: usize = 0x10_000;
/// Guest memory of the discard tests is not at zero, and has a hole.
const LOW: u64 = 0x1_0000;
const HIGH: u64 = 0x4_0000;

fn memory(flags: i32, file: Option<&File>) -> GuestMemoryMmap {
    let regions = (0_u64..).zip([LOW, HIGH]).map(|(index, start)| {
        let mut builder = MmapRegionBuilder::new(LEN)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(flags | libc::MAP_NORESERVE);
        if let Some(file) = file {
            let copy = file.try_clone().expect("a descriptor");
            let offset = index * u64::try_from(LEN).expect("small");
            builder = builder.with_file_offset(FileOffset::new(copy, offset));
        }
        let mapping = builder.build().expect("a mapping");
        GuestRegionMmap::new(mapping, GuestAddress(start)).expect("no overflow")
    });
    GuestMemoryMmap::from_regions(regions.collect()).expect("apart")
}

fn file() -> File {
    let memfd = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(memfd.expect("a memfd"));
    file.write_all(&vec![0x5a; 2 * LEN]).expect("room");
    file
}

#[test]
fn given_pages_are_zero_and_the_others_stay() {
    let private_file = file();
    let shared_file = file();
    let kinds = [
        (
            "anonymous",
            memory(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None),
        ),
        (
            "private file",
            memory(libc::MAP_PRIVATE, Some(&private_file)),
        ),
        ("shared file", memory(libc::MAP_SHARED, Some(&shared_file))),
    ];
    for (name, memory) in &kinds {
        for start in [LOW, HIGH] {
            memory
                .write_slice(&[0xaa; LEN], GuestAddress(start))
                .expect("in memory");
        }
        let byte = |at: u64| memory.read_obj::<u8>(GuestAddress(at)).expect("in memory");
        // Start, length, bytes given, and whether the page at the address is zero afterwards.
        for (start, len, given, probe, zero) in [
            (LOW, PAGE, PAGE, LOW, true),
            (LOW + PAGE, PAGE - 1, 0, LOW + PAGE, false),
            (LOW + PAGE + 1, 2 * PAGE - 1, PAGE, LOW + 2 * PAGE, true),
            (0, LOW, 0, LOW + PAGE, false),
            (
                LOW + 0xf000,
                0x10_0000,
                PAGE + 0x1_0000,
                HIGH + 0xf000,
                true,
            ),
            (
                HIGH + 0x1_0000,
                u64::MAX - HIGH - 0x1_0000,
                0,
                LOW + PAGE,
                false,
            ),
            (u64::MAX - 10, 100, 0, LOW + PAGE, false),
            (u64::MAX - 10, 5, 0, LOW + PAGE, false),
            (LOW + 3 * PAGE, 0, 0, LOW + 3 * PAGE, false),
        ] {
            let result = discard(memory, start, len).expect("the kernel takes it");
            assert_eq!(result, given, "{name}: {start:#x} {len:#x}");
            let expected = if zero { 0 } else { 0xaa };
            assert_eq!(byte(probe), expected, "{name}: {start:#x} {len:#x}");
        }
        memory
            .write_slice(&[0xbb], GuestAddress(LOW))
            .expect("a given page is memory again");
        assert_eq!(byte(LOW), 0xbb, "{name}");
    }
    let blocks = shared_file.metadata().expect("metadata").blocks();
    // 19 were given, and looking at three of them made them pages again.
    let kept = 2 * u64::try_from(LEN).expect("small") / PAGE - 19 + 3;
    assert_eq!(blocks * 512, kept * PAGE, "the file has holes");
    let mut snapshot = vec![0; 2 * LEN];
    std::os::unix::fs::FileExt::read_exact_at(&private_file, &mut snapshot, 0).expect("all of it");
    assert!(
        snapshot.iter().all(|byte| *byte == 0x5a),
        "the file is never written"
    );
}

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const HINT: usize = 2;
const REPORT: usize = 3;
const LIST: u64 = 0x8000;
const GIVEN: u64 = 0x4_0000;

fn balloon() -> (Activated, BalloonHandle) {
    let device = Balloon::new().expect("eventfd");
    let handle = device.handle();
    let features = device.features();
    let guest = Activated::with_features(Arc::new(Mutex::new(device)), features);
    (guest, handle)
}

impl Activated {
    fn poison(&self) {
        self.memory
            .write_slice(&[0xaa; 0x1_0000], GuestAddress(GIVEN))
            .expect("in memory");
    }

    fn zero_pages(&self) -> Vec<u64> {
        (0..16)
            .filter(|page| {
                let at = GuestAddress(GIVEN + page * PAGE);
                self.memory.read_obj::<u64>(at).expect("in memory") == 0
            })
            .collect()
    }

    fn submit(&self, queue: usize, bytes: &[u8], chain: &[Descriptor]) {
        self.memory
            .write_slice(bytes, GuestAddress(LIST))
            .expect("in memory");
        let before = self.used(queue).len();
        self.offer(queue, chain, &[0]);
        self.kick(queue);
        assert_eq!(self.used(queue).len(), before + 1);
    }
}

fn numbers(pages: &[u64]) -> Vec<u8> {
    pages
        .iter()
        .flat_map(|page| u32::try_from(*page).expect("small").to_le_bytes())
        .collect()
}

#[test]
fn inflated_pages_are_given_whatever_the_list_says() {
    let first = GIVEN / PAGE;
    let outside = MEMORY / PAGE;
    let last = u64::from(u32::MAX);
    for (name, list, zero) in [
        ("one", vec![first + 3], vec![3]),
        (
            "a run, backwards",
            vec![first + 2, first + 1, first],
            vec![0, 1, 2],
        ),
        ("twice the same", vec![first + 1; 9], vec![1]),
        ("outside", vec![outside, last, first + 5], vec![5]),
        ("none", vec![], vec![]),
    ] {
        let (guest, handle) = balloon();
        guest.poison();
        let bytes = numbers(&list);
        let len = u32::try_from(bytes.len()).expect("small");
        guest.submit(INFLATE, &bytes, &[(LIST, len, 0, 0)]);
        assert_eq!(guest.zero_pages(), zero, "{name}");
        let pages = u64::try_from(zero.len()).expect("small");
        assert_eq!(handle.given(), pages * PAGE, "{name}");
        guest.submit(DEFLATE, &bytes, &[(LIST, len, 0, 0)]);
    }
}

#[test]
fn free_pages_are_taken_when_reported_and_when_asked_for() {
    let (guest, handle) = balloon();
    guest.poison();
    let page = u32::try_from(PAGE).expect("small");
    guest.submit(REPORT, &[], &[(GIVEN, 3 * page, WRITE, 0)]);
    assert_eq!(guest.zero_pages(), [0, 1, 2]);

    let hint = |at: u64| [(at, page, WRITE, 0)];
    guest.submit(HINT, &[], &hint(GIVEN + 4 * PAGE));
    assert_eq!(guest.zero_pages(), [0, 1, 2], "nobody asked");
    handle.start_hinting();
    let mut wanted = [0; 4];
    lock(&guest.device).read_config(8, &mut wanted);
    guest.submit(HINT, &[], &hint(GIVEN + 4 * PAGE));
    assert_eq!(
        guest.zero_pages(),
        [0, 1, 2],
        "the guest has not begun the round"
    );
    guest.submit(HINT, &wanted, &[(LIST, 4, 0, 0)]);
    guest.submit(HINT, &[], &hint(GIVEN + 4 * PAGE));
    assert_eq!(guest.zero_pages(), [0, 1, 2, 4]);
    guest.submit(HINT, &[0; 4], &[(LIST, 4, 0, 0)]);
    assert_eq!(handle.rounds(), 1);
    guest.submit(HINT, &[], &hint(GIVEN + 5 * PAGE));
    assert_eq!(guest.zero_pages(), [0, 1, 2, 4], "the round is over");
}

#[test]
fn the_guest_hears_what_is_wanted_and_says_what_it_gave() {
    let (guest, handle) = balloon();
    handle.set_target(1234);
    let mut config = [0; 12];
    lock(&guest.device).read_config(0, &mut config);
    assert_eq!(config[..4], 1234_u32.to_le_bytes());
    lock(&guest.device).write_config(4, &77_u32.to_le_bytes());
    assert_eq!(handle.actual(), 77);
    for (offset, data) in [
        (0, &[1, 2, 3, 4][..]),
        (4, &[9]),
        (5, &[1, 2, 3, 4]),
        (8, &[0; 8]),
    ] {
        lock(&guest.device).write_config(offset, data);
    }
    let mut after = [0; 12];
    lock(&guest.device).read_config(0, &mut after);
    assert_eq!(after[..4], config[..4]);
    assert_eq!(handle.actual(), 77);
}

#[test]
fn broken_rings_need_a_reset() {
    let (mut guest, _) = balloon();
    for queue in [INFLATE, DEFLATE, HINT, REPORT] {
        guest.restart();
        guest.offer(queue, &[(LIST, 4, 0, 0)], &[QUEUE]);
        guest.kick(queue);
        assert!(guest.interrupt.is_broken(), "{queue}");
    }
}
