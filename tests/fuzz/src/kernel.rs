//! A kernel image that is any bytes at all.
//!
//! An input is the format, the VM's memory (MiB of 64 and more) and the image.

use std::io::Cursor;

use casemate_kernel::{Entry, Format, place_initrd, plan};

/// Where a kernel may be from.
const START: u64 = 0x10_0000;

/// Plays an input. What is planned lies in the file and in RAM, one piece after the other, and begins inside of itself.
pub fn play(input: &[u8]) {
    let [format, mib, image @ ..] = input else {
        return;
    };
    let format = match format % 2 {
        0 => Format::Elf,
        _ => Format::BzImage,
    };
    let ram = START..(64 + u64::from(*mib)) << 20;
    let Ok(plan) = plan(format, &mut Cursor::new(image), ram.clone()) else {
        return;
    };
    let mut before = ram.start;
    let file_len = u64::try_from(image.len()).expect("small");
    for segment in &plan.segments {
        assert!(segment.memory.start >= before, "pieces overlap");
        assert!(segment.memory.end <= ram.end, "outside of RAM");
        assert!(segment.file.end <= file_len, "not in the file");
        let bytes = segment.file.end - segment.file.start;
        assert!(bytes <= segment.memory.end - segment.memory.start);
        before = segment.memory.end;
    }
    assert_eq!(plan.end, before, "the end is that of the last piece");
    let begin = match &plan.entry {
        Entry::Pvh { address } => u64::from(*address),
        Entry::Long { address, setup } => {
            if let Ok(header) = setup.fill(0x2_0000, 0x300_0000..0x300_1000) {
                assert!(header.len() <= 0x290 - 0x1f1, "over the rest of the page");
            }
            *address
        }
    };
    let loaded = plan.segments.iter().any(|segment| {
        let bytes = segment.file.end - segment.file.start;
        (segment.memory.start..segment.memory.start + bytes).contains(&begin)
    });
    assert!(loaded, "begins where nothing was loaded");
    if let Ok(place) = place_initrd(0x1000, plan.end, &ram) {
        assert!(place.start >= plan.end && place.end <= ram.end);
    }
}
