//! The disk device under hostile queues, over a raw file; read-only when the target's own flag is set.
#![no_main]

use std::{fs::File, io::Read as _};

use casemate_devices::blk::{Access, Block, RawDisk, Serial};
use casemate_devices::event_loop::EventLoop;
use casemate_fuzz::{driver, machine::memory_file};
use libfuzzer_sys::fuzz_target;

const DISK: u64 = 0x1_0000;

fuzz_target!(|input: &[u8]| {
    let read_only = input.first().is_some_and(|flags| flags & driver::OWN != 0);
    let access = if read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let file = memory_file(DISK);
    let disk = RawDisk::open(file.try_clone().expect("a descriptor"), access).expect("a disk");
    let serial = Serial::new("fuzz").expect("a serial");
    let event_loop = EventLoop::new().expect("epoll");
    let loops = vec![event_loop.clone(); 2];
    let device = Block::new(Box::new(disk), serial, access, loops);
    driver::play_on(event_loop, device, input, || {});
    let mut file = File::from(file);
    assert_eq!(
        file.metadata().expect("memfd").len(),
        DISK,
        "the disk changed its size"
    );
    if read_only {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("memfd");
        assert!(
            bytes.iter().all(|byte| *byte == 0),
            "a read-only disk was written"
        );
    }
});
