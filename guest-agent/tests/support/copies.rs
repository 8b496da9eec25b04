//! Parts of a file copy stream, written by hand.

/// Regular file, directory and link with usual rights.
pub(crate) const FILE: u32 = 0o100_644;
pub(crate) const DIRECTORY: u32 = 0o040_755;
pub(crate) const LINK: u32 = 0o120_777;

/// The end marker.
pub(crate) const END: [u8; 32] = [0; 32];

pub(crate) fn header(name_len: u32, mode: u32, length: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&name_len.to_le_bytes());
    bytes[4..8].copy_from_slice(&mode.to_le_bytes());
    bytes[8..16].copy_from_slice(&length.to_le_bytes());
    bytes[24..28].copy_from_slice(&1_500_000_000_u32.to_le_bytes());
    bytes
}

pub(crate) fn entry(name: &[u8], mode: u32, content: &[u8]) -> Vec<u8> {
    let name_len = u32::try_from(name.len() + 1).unwrap();
    let content = if mode & 0o170_000 == 0o040_000 {
        b""
    } else {
        content
    };
    let header = header(name_len, mode, content.len() as u64);
    [&header[..], name, b"\0", content].concat()
}

pub(crate) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), FILE, content)
}

pub(crate) fn directory(name: &str) -> Vec<u8> {
    entry(name.as_bytes(), DIRECTORY, b"")
}

pub(crate) fn link(name: &str, target: &str) -> Vec<u8> {
    entry(name.as_bytes(), LINK, target.as_bytes())
}

/// Ends of each part of a stream: headers, names, contents.
pub(crate) fn boundaries() -> (Vec<u8>, Vec<usize>) {
    let mut stream = Vec::new();
    let mut ends = vec![0];
    for (name, mode, content) in [
        ("d", DIRECTORY, &b""[..]),
        ("d/one", FILE, b"first"),
        ("d/link", LINK, b"one"),
        ("d/two", FILE, b"second"),
        ("d", DIRECTORY, b""),
    ] {
        let whole = entry(name.as_bytes(), mode, content);
        let start = stream.len();
        for end in [
            16,
            32,
            32 + name.len() + 1,
            whole.len().saturating_sub(2),
            whole.len(),
        ] {
            ends.push(start + end);
        }
        stream.extend(whole);
    }
    ends.push(stream.len() + 16);
    stream.extend(END);
    ends.sort_unstable();
    ends.dedup();
    (stream, ends)
}

/// What of [`boundaries`] is whole after so many bytes.
pub(crate) fn whole(bytes: usize) -> Vec<(&'static str, &'static str)> {
    let lengths = [34, 32 + 6 + 5, 32 + 7 + 3, 32 + 6 + 6];
    let landed = [
        ("d", "/"),
        ("d/one", "first"),
        ("d/link", "-> one"),
        ("d/two", "second"),
    ];
    let mut end = 0;
    let mut found = Vec::new();
    for (length, entry) in lengths.into_iter().zip(landed) {
        end += length;
        if bytes >= end {
            found.push(entry);
        }
    }
    found
}
