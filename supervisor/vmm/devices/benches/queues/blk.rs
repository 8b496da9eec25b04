//! blk: reads of a file in the page cache, 32 requests a kick, beside `pread` of the same ranges.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;

use casemate_devices::blk::{Access, Block, RawDisk, Serial};
use casemate_devices::event_loop::EventLoop;
use criterion::{Criterion, Throughput};

use crate::driver::{BUFFERS, Driver, MEMORY, NEXT, WRITE};

const DISK: u64 = 64 << 20;
/// Requests of one kick.
const DEPTH: u16 = 32;
/// Headers and status bytes; data is behind.
const HEADERS: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x1000;
const DATA: u64 = BUFFERS + 0x1_0000;

fn disk() -> File {
    let file = tempfile::tempfile().expect("a file");
    let part: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for at in (0..DISK).step_by(part.len()) {
        file.write_all_at(&part, at).expect("room");
    }
    file
}

/// The next offset of a walk through all blocks of `len` bytes, in order or not.
struct Walk {
    at: u64,
    step: u64,
    blocks: u64,
    len: u64,
}

impl Walk {
    fn new(len: u64, random: bool) -> Self {
        Self {
            at: 0,
            // Odd, so that a power of two of blocks is walked through whole.
            step: if random { 7919 } else { 1 },
            blocks: DISK / len,
            len,
        }
    }

    fn next(&mut self) -> u64 {
        self.at = (self.at + self.step) % self.blocks;
        self.at * self.len
    }
}

fn batch(driver: &mut Driver, walk: &mut Walk) {
    for slot in 0..u64::from(DEPTH) {
        let sector = walk.next() / 512;
        driver.write(HEADERS + 16 * slot + 8, &sector.to_le_bytes());
    }
    driver.offer(0, (0..DEPTH).map(|slot| 3 * slot));
    driver.kick(0);
    assert_eq!(driver.waiting(0), 0);
}

fn describe(driver: &Driver, len: u32) {
    for slot in 0..DEPTH {
        let (first, place) = (3 * slot, u64::from(slot));
        let data = DATA + place * u64::from(len);
        let chain = [
            (HEADERS + 16 * place, 16, NEXT, first + 1),
            (data, len, NEXT | WRITE, first + 2),
            (STATUS + place, 1, WRITE, 0),
        ];
        driver.describe(0, first, &chain);
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    for (name, len, random) in [
        ("blk random read 4 KiB", 4096_u32, true),
        ("blk sequential read 128 KiB", 128 << 10, false),
    ] {
        let file = disk();
        let copy = file.try_clone().expect("a descriptor");
        let disk = RawDisk::open(copy.into(), Access::ReadWrite).expect("a disk");
        let serial = Serial::new("bench").expect("a serial");
        let event_loop = EventLoop::new().expect("epoll");
        let loops = vec![event_loop.clone()];
        let device = Block::new(Box::new(disk), serial, Access::ReadWrite, loops);
        let mut driver = Driver::on(event_loop, device);
        describe(&driver, len);
        driver.write(HEADERS, &[0; 16 * DEPTH as usize]);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(u64::from(DEPTH) * u64::from(len)));
        let mut walk = Walk::new(len.into(), random);
        group.bench_function("device", |bencher| {
            bencher.iter(|| batch(&mut driver, &mut walk));
        });
        let mut walk = Walk::new(len.into(), random);
        let len = usize::try_from(len).expect("small");
        // From a mapping as large as the guest's memory and from the start of a page, as the guest's buffers are.
        let mut memory = vec![1_u8; MEMORY];
        let start = memory.as_ptr().align_offset(0x1000);
        let buffers = &mut memory[start..start + len * usize::from(DEPTH)];
        group.bench_function("pread", |bencher| {
            bencher.iter(|| {
                for buffer in buffers.chunks_mut(len) {
                    file.read_exact_at(buffer, walk.next()).expect("inside");
                }
                black_box(&*buffers);
            });
        });
        group.finish();
    }
}
