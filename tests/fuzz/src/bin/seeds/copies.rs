//! Seeds that are file copy streams, each behind its two bytes of rules and pieces.

use crate::Seed;

const FILE: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

fn entry(name: &[u8], mode: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(
        u32::try_from(name.len() + 1)
            .expect("a short name")
            .to_le_bytes(),
    );
    bytes.extend(mode.to_le_bytes());
    bytes.extend((content.len() as u64).to_le_bytes());
    for time in [1_u32, 2, 1_500_000_000, 123_456_789] {
        bytes.extend(time.to_le_bytes());
    }
    [&bytes[..], name, b"\0", content].concat()
}

pub(crate) fn all() -> Vec<Seed> {
    let end = vec![0; 32];
    let tree = [
        entry(b"d", DIRECTORY, b""),
        entry(b"d/sub", DIRECTORY, b""),
        entry(b"d/sub/file", FILE, b"content"),
        entry(b"d/sub/link", LINK, b"../other"),
        entry(b"d/sub", 0o040_700, b""),
        entry("d/\u{fc}".as_bytes(), 0o104_755, b""),
        entry(b"d", 0o042_555, b""),
        end.clone(),
    ]
    .concat();
    let zeros = [entry(b"zeros", FILE, &[0; 3000]), end.clone()].concat();
    let odd = [
        entry(b"cut\0off", FILE, b"1"),
        entry(b"-\x1b\xff", FILE, b"2"),
        end.clone(),
    ]
    .concat();
    let links = [
        entry(b"d", DIRECTORY, b""),
        entry(b"d/l", LINK, b"./b//c/"),
        entry(b"d/l/through", FILE, b"x"),
    ]
    .concat();
    let one = [entry(b"one.txt", FILE, b"text"), end].concat();
    [
        ("tree", 0, tree.clone()),
        ("tree_limited", 0b1100, tree),
        ("zeros", 0, zeros),
        ("any_characters", 1, odd),
        ("links", 0, links),
        ("one_file", 0b10, one),
    ]
    .map(|(name, rules, stream)| ("filecopy_stream", name, [&[rules, 7][..], &stream].concat()))
    .to_vec()
}
