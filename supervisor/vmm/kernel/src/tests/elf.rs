//! ELF: a good one, and one change a row.

use super::*;

/// Two segments with 0x100 bytes each, the first with zeros after them, and a note with the entry.
fn good() -> Vec<u8> {
    let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    put(&mut image, 16, &2_u16.to_le_bytes());
    put(&mut image, 18, &62_u16.to_le_bytes());
    put(&mut image, 32, &64_u64.to_le_bytes());
    put(&mut image, 54, &56_u16.to_le_bytes());
    put(&mut image, 56, &3_u16.to_le_bytes());
    header(&mut image, 0, [1, 0x1000, 0x100_0000, 0x100, 0x1000]);
    header(&mut image, 1, [1, 0x1100, 0x100_1000, 0x100, 0x100]);
    header(&mut image, 2, [4, 0x200, 0, NOTES, NOTES]);
    note(&mut image, NOTE_AT, b"GNU\0", 18, &[1; 20]);
    note(&mut image, NOTE_AT + 36, b"Xen\0", 18, &ENTRY.to_le_bytes());
    put(&mut image, 0x11ff, &[0]);
    image
}

const ENTRY: u64 = 0x100_0010;
const NOTE_AT: usize = 0x200;
/// Bytes of both notes.
const NOTES: u64 = 36 + 24;

/// Writes program header `index`: type, offset, physical address, bytes in the file and in memory.
fn header(image: &mut Vec<u8>, index: usize, [kind, offset, address, file, memory]: [u64; 5]) {
    let at = 64 + index * 56;
    put(image, at, &kind.to_le_bytes()[..4]);
    for (place, value) in [(8, offset), (24, address), (32, file), (40, memory)] {
        put(image, at + place, &value.to_le_bytes());
    }
}

fn note(image: &mut Vec<u8>, at: usize, owner: &[u8], kind: u32, content: &[u8]) {
    for (place, value) in [(0, owner.len()), (4, content.len())] {
        let value = u32::try_from(value).expect("short");
        put(image, at + place, &value.to_le_bytes());
    }
    put(image, at + 8, &kind.to_le_bytes());
    put(image, at + 12, owner);
    put(image, at + 12 + owner.len(), content);
}

#[test]
fn a_good_image_is_planned() {
    let plan = outcome(Format::Elf, &good()).expect("it is good");
    let segment = |file: Range<u64>, memory: Range<u64>| Segment { file, memory };
    let expected = Plan {
        segments: vec![
            segment(0x1000..0x1100, 0x100_0000..0x100_1000),
            segment(0x1100..0x1200, 0x100_1000..0x100_1100),
        ],
        entry: Entry::Pvh {
            address: 0x100_0010,
        },
        end: 0x100_1100,
    };
    assert_eq!(plan, expected);
}

#[test]
fn segments_out_of_order_and_the_whole_ram_are_no_fault() {
    let mut image = good();
    header(&mut image, 0, [1, 0x1000, 0x100_1000, 0x100, 0x2ff_f000]);
    header(&mut image, 1, [1, 0x1100, 0x100_0000, 0x100, 0x1000]);
    let plan = outcome(Format::Elf, &image).expect("it is good");
    let starts: Vec<_> = plan.segments.iter().map(|one| one.memory.start).collect();
    assert_eq!(starts, [0x100_0000, 0x100_1000]);
    assert_eq!(plan.end, RAM.end);
}

#[test]
fn a_note_with_a_short_entry_and_one_in_a_second_segment_are_found() {
    let mut image = good();
    let entry = u32::try_from(ENTRY).expect("below 4 GiB").to_le_bytes();
    note(&mut image, NOTE_AT + 36, b"Xen\0", 18, &entry);
    header(&mut image, 2, [4, 0x200 + 36, 0, 20, 20]);
    put(&mut image, 56, &4_u16.to_le_bytes());
    header(&mut image, 3, [4, 0x200, 0, 36, 36]);
    assert!(outcome(Format::Elf, &image).is_ok());
}

#[test]
fn every_cut_is_noticed() {
    let image = good();
    for len in 0..image.len() {
        assert!(outcome(Format::Elf, &image[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn bad_images_are_refused() {
    type Change = fn(&mut Vec<u8>);
    const HUGE: u64 = u64::MAX;
    let rows: &[(&str, Change, &str)] = &[
        ("magic", |i| put(i, 1, b"F"), "not a loadable ELF"),
        ("32 bits", |i| put(i, 4, &[1]), "not a loadable ELF"),
        ("big endian", |i| put(i, 5, &[2]), "not a loadable ELF"),
        ("version", |i| put(i, 6, &[2]), "not a loadable ELF"),
        ("library", |i| put(i, 16, &[3]), "not a loadable ELF"),
        ("object", |i| put(i, 16, &[1]), "not a loadable ELF"),
        (
            "other machine",
            |i| put(i, 18, &[183]),
            "not a loadable ELF",
        ),
        ("header length", |i| put(i, 54, &[55]), "unknown length"),
        ("no headers", |i| put(i, 56, &[0]), "nothing to load"),
        ("65 headers", |i| put(i, 56, &[65]), "65 program headers"),
        ("65535 headers", |i| put(i, 56, &[255; 2]), "65535 program"),
        (
            "headers past the end",
            |i| put(i, 32, &0x1200_u64.to_le_bytes()),
            "cut off",
        ),
        (
            "headers that wrap",
            |i| put(i, 32, &HUGE.to_le_bytes()),
            "cut off",
        ),
        (
            "no segment",
            |i| {
                header(i, 0, [2, 0, 0, 0, 0]);
                header(i, 1, [6, 0, 0, 0, 0]);
            },
            "nothing to load",
        ),
        (
            "empty segment",
            |i| header(i, 1, [1, 0x1100, 0x100_1000, 0, 0]),
            "no length",
        ),
        (
            "empty segment anywhere",
            |i| header(i, 1, [1, HUGE, HUGE, 0, 0]),
            "no length",
        ),
        (
            "more in the file",
            |i| header(i, 0, [1, 0x1000, 0x100_0000, 0x101, 0x100]),
            "more bytes in the file",
        ),
        (
            "segment past the file",
            |i| header(i, 0, [1, 0x1101, 0x100_0000, 0x100, 0x100]),
            "cut off",
        ),
        (
            "segment before it",
            |i| header(i, 0, [1, HUGE - 0xff, 0x100_0000, 0x100, 0x100]),
            "cut off",
        ),
        (
            "huge in the file",
            |i| header(i, 0, [1, 0x1000, 0x100_0000, HUGE, HUGE]),
            "cut off",
        ),
        (
            "huge in memory",
            |i| header(i, 0, [1, 0x1000, 0x100_0000, 0x100, HUGE]),
            "give it more memory",
        ),
        (
            "wraps in memory",
            |i| header(i, 0, [1, 0x1000, 0x100_0000, 0x100, HUGE - 0x100_0000]),
            "give it more memory",
        ),
        (
            "to the last address",
            |i| header(i, 0, [1, 0x1000, HUGE - 0xff, 0x100, 0x100]),
            "give it more memory",
        ),
        (
            "a byte past RAM",
            |i| header(i, 1, [1, 0x1100, RAM.end - 0x100, 0x100, 0x101]),
            "give it more memory",
        ),
        (
            "a byte before RAM",
            |i| header(i, 1, [1, 0x1100, RAM.start - 1, 0x100, 0x100]),
            "give it more memory",
        ),
        (
            "over the start info",
            |i| header(i, 1, [1, 0x1100, 0x6000, 0x100, 0x100]),
            "give it more memory",
        ),
        (
            "above 4 GiB",
            |i| header(i, 1, [1, 0x1100, 1 << 32, 0x100, 0x100]),
            "give it more memory",
        ),
        (
            "same place",
            |i| header(i, 1, [1, 0x1100, 0x100_0000, 0x100, 0x100]),
            "overlap",
        ),
        (
            "one byte over",
            |i| header(i, 1, [1, 0x1100, 0x100_0fff, 0x100, 0x100]),
            "overlap",
        ),
        (
            "inside of zeros",
            |i| header(i, 1, [1, 0x1100, 0x100_0800, 0x100, 0x100]),
            "overlap",
        ),
        (
            "around",
            |i| header(i, 1, [1, 0x1100, 0xff_f000, 0x100, 0x3000]),
            "overlap",
        ),
        (
            "no notes",
            |i| header(i, 2, [6, 0, 0, 0, 0]),
            "no PVH entry",
        ),
        (
            "other owner",
            |i| put(i, NOTE_AT + 48, b"Xem"),
            "no PVH entry",
        ),
        (
            "longer owner",
            |i| put(i, NOTE_AT + 36, &[3]),
            "no PVH entry",
        ),
        (
            "other note",
            |i| put(i, NOTE_AT + 44, &[17]),
            "no PVH entry",
        ),
        (
            "notes past the file",
            |i| header(i, 2, [4, 0x11f0, 0, 60, 60]),
            "cut off",
        ),
        (
            "notes that wrap",
            |i| header(i, 2, [4, HUGE, 0, 60, 60]),
            "cut off",
        ),
        (
            "too many notes",
            |i| {
                i.resize(0x2_0000, 0);
                header(i, 2, [4, 0x200, 0, MAX_NOTES + 1, 0]);
            },
            "bytes of notes",
        ),
        (
            "half a note",
            |i| header(i, 2, [4, 0x200, 0, 40, 40]),
            "note is cut off",
        ),
        (
            "note without content",
            |i| header(i, 2, [4, 0x200, 0, 56, 56]),
            "note is cut off",
        ),
        (
            "huge owner",
            |i| put(i, NOTE_AT, &[255; 4]),
            "note is cut off",
        ),
        (
            "huge content",
            |i| put(i, NOTE_AT + 4, &[255; 4]),
            "note is cut off",
        ),
        (
            "entry of 3 bytes",
            |i| put(i, NOTE_AT + 40, &[3]),
            "too short",
        ),
        (
            "entry above 4 GiB",
            |i| put(i, NOTE_AT + 56, &[1]),
            "below 4 GiB",
        ),
        ("entry 0", |i| put(i, NOTE_AT + 52, &[0; 4]), "entry 0x0"),
        (
            "entry before it",
            |i| put(i, NOTE_AT + 52, &0xff_ffff_u32.to_le_bytes()),
            "entry 0xffffff",
        ),
        (
            "entry in zeros",
            |i| put(i, NOTE_AT + 52, &0x100_0100_u32.to_le_bytes()),
            "entry 0x1000100",
        ),
        (
            "entry at the end",
            |i| put(i, NOTE_AT + 52, &0x100_1100_u32.to_le_bytes()),
            "entry 0x1001100",
        ),
        (
            "entry past RAM",
            |i| put(i, NOTE_AT + 52, &[255; 4]),
            "entry 0xffffffff",
        ),
        (
            "two entries",
            |i| {
                put(i, 56, &[4]);
                note(i, 0x300, b"Xen\0", 18, &0x100_0020_u32.to_le_bytes());
                header(i, 3, [4, 0x300, 0, 20, 20]);
            },
            "two PVH entries",
        ),
    ];
    for (what, change, words) in rows {
        let mut image = good();
        change(&mut image);
        refused(Format::Elf, what, &image, words);
    }
    refused(
        Format::BzImage,
        "an ELF as bzImage",
        &good(),
        "not a bzImage",
    );
}
