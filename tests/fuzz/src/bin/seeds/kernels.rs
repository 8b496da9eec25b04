//! Seeds of kernel images: small ones that are well-formed.

use crate::Seed;

pub(crate) fn all() -> Vec<Seed> {
    let input = |format: u8, image: Vec<u8>| [vec![format, 0], image].concat();
    vec![
        ("kernel_load", "elf", input(0, elf())),
        ("kernel_load", "bzimage", input(1, bzimage())),
    ]
}

fn put(image: &mut Vec<u8>, at: usize, value: u64, len: usize) {
    image.resize(image.len().max(at + len), 0);
    image[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// Two segments, the first with zeros after it, and two notes.
fn elf() -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    for (at, value, len) in [
        (16, 2, 2),
        (18, 62, 2),
        (32, 64, 8),
        (54, 56, 2),
        (56, 3, 2),
    ] {
        put(&mut image, at, value, len);
    }
    for (index, [kind, offset, address, file, memory]) in [
        [1, 0x200, 0x100_0000, 0x80, 0x1000],
        [1, 0x280, 0x100_1000, 0x80, 0x80],
        [4, 0x100, 0, 44, 44],
    ]
    .into_iter()
    .enumerate()
    {
        let at = 64 + index * 56;
        put(&mut image, at, kind, 4);
        for (place, value) in [(8, offset), (24, address), (32, file), (40, memory)] {
            put(&mut image, at + place, value, 8);
        }
    }
    let xen = u64::from(u32::from_le_bytes(*b"Xen\0"));
    let gnu = u64::from(u32::from_le_bytes(*b"GNU\0"));
    let words = [4, 4, 1, gnu, 0, 4, 8, 18, xen, 0x100_0010, 0];
    for (index, word) in words.into_iter().enumerate() {
        put(&mut image, 0x100 + index * 4, word, 4);
    }
    put(&mut image, 0x2ff, 0, 1);
    image
}

/// One setup sector and 1 KiB of code.
fn bzimage() -> Vec<u8> {
    let mut image = Vec::new();
    for (at, value, len) in [
        (0x1f1, 1, 1),
        (0x1f4, 0x40, 4),
        (0x200, 0x6aeb, 2),
        (0x202, 0x5372_6448, 4),
        (0x206, 0x020f, 2),
        (0x211, 1, 1),
        (0x22c, 0x7fff_ffff, 4),
        (0x230, 0x20_0000, 4),
        (0x234, 1, 1),
        (0x236, 0x3, 2),
        (0x238, 2047, 4),
        (0x248, 0x300, 4),
        (0x24c, 0x100, 4),
        (0x258, 0x100_0000, 8),
        (0x260, 0x200_0000, 4),
        (0x7ff, 0x90, 1),
    ] {
        put(&mut image, at, value, len);
    }
    image
}
