//! The receiver against streams that a hostile sender might make.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::header::ENDED_INSIDE;

fn entry(name: &[u8], mode: u32, content: &[u8]) -> Vec<u8> {
    let header = Header {
        name_len: u32::try_from(name.len() + 1).unwrap(),
        mode,
        file_len: content.len() as u64,
        mtime: 1_500_000_000,
        ..Header::default()
    };
    [&header.encode()[..], name, b"\0", content].concat()
}

const END: [u8; HEADER] = [0; HEADER];
const FILE: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

fn run(stream: &[u8]) -> (tempfile::TempDir, u8, Option<Outcome>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("in");
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let fd = rustix::fs::open(&root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut output = Vec::new();
    let rules = Rules::default();
    let status = receive(&fd, &rules, &mut &stream[..], &mut output, &mut |_| {}).unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("outside")).unwrap(),
        "untouched"
    );
    let outcome = (!output.is_empty()).then(|| Outcome::read(&mut output.as_slice()).unwrap());
    (dir, status, outcome)
}

fn content(dir: &tempfile::TempDir, name: &str) -> Option<String> {
    fs::read_to_string(dir.path().join("in").join(name)).ok()
}

#[test]
fn a_tree_arrives_whole() {
    let stream = [
        entry(b"d", DIRECTORY, b""),
        entry(b"d/f", 0o100_600, b"hello"),
        entry(b"d/l", LINK, b"f"),
        entry(b"d", 0o040_750, b""),
        END.to_vec(),
    ]
    .concat();
    let (dir, status, outcome) = run(&stream);
    let outcome = outcome.unwrap();
    assert_eq!((status, outcome.error), (0, 0));
    assert_eq!(outcome.crc, crc32fast::hash(&stream));
    assert_eq!(content(&dir, "d/f").as_deref(), Some("hello"));
    assert_eq!(content(&dir, "d/l").as_deref(), Some("hello"));
    let mode = |path: &str| {
        fs::metadata(dir.path().join("in").join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode("d"), mode("d/f")), (0o750, 0o600));
}

#[test]
fn hostile_streams_are_refused() {
    let ilseq = (84, Some(84));
    type Expected = (u8, Option<u32>);
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("empty", vec![], (121, Some(121))),
        ("half a header", vec![1; 9], (121, Some(121))),
        (
            "half a name",
            entry(b"abcdef", FILE, b"")[..35].to_vec(),
            (ENDED_INSIDE.to_le_bytes()[0], Some(ENDED_INSIDE)),
        ),
        ("no end marker", entry(b"a", FILE, b""), (121, Some(121))),
        (
            "short content",
            entry(b"a", FILE, b"abc")[..36].to_vec(),
            (ENDED_INSIDE.to_le_bytes()[0], Some(ENDED_INSIDE)),
        ),
        ("dot dot", entry(b"../outside", FILE, b"x"), ilseq),
        ("absolute", entry(b"/tmp/x", FILE, b"x"), ilseq),
        (
            "directory dot",
            entry(b".", DIRECTORY, b""),
            (172, Some(84u32.wrapping_neg())),
        ),
        ("device", entry(b"a", 0o020_644, b""), (22, Some(22))),
        ("fifo", entry(b"a", 0o010_644, b""), (22, Some(22))),
        ("socket", entry(b"a", 0o140_644, b""), (22, Some(22))),
        ("no type", entry(b"a", 0o644, b""), (22, Some(22))),
        ("missing parent", entry(b"d/f", FILE, b"x"), (2, Some(2))),
        ("top link", entry(b"l", LINK, b"x"), (67, Some(67))),
        (
            "link out",
            [
                entry(b"d", DIRECTORY, b""),
                entry(b"d/l", LINK, b"../../outside"),
            ]
            .concat(),
            (67, Some(67)),
        ),
        (
            "link absolute",
            [entry(b"d", DIRECTORY, b""), entry(b"d/l", LINK, b"/etc")].concat(),
            (67, Some(67)),
        ),
        (
            "file twice",
            [entry(b"a", FILE, b"1"), entry(b"a", FILE, b"2")].concat(),
            (17, Some(17)),
        ),
        (
            "file as parent",
            [entry(b"a", FILE, b"1"), entry(b"a/b", FILE, b"2")].concat(),
            (20, Some(20)),
        ),
        (
            "link as parent",
            [
                entry(b"d", DIRECTORY, b""),
                entry(b"d/e", DIRECTORY, b""),
                entry(b"d/l", LINK, b"e"),
                entry(b"d/l/f", FILE, b"x"),
            ]
            .concat(),
            (20, Some(20)),
        ),
        ("escape sequence", entry(b"a\x1b]0;x\x07", FILE, b""), ilseq),
    ];
    for (what, stream, expected) in cases {
        let (_dir, status, outcome) = run(&stream);
        assert_eq!(
            (status, outcome.map(|outcome| outcome.error)),
            expected,
            "{what}"
        );
    }
}

#[test]
fn impossible_numbers_are_refused() {
    let with = |change: fn(&mut Header)| {
        let mut header = Header {
            name_len: 2,
            mode: FILE,
            ..Header::default()
        };
        change(&mut header);
        [&header.encode()[..], b"a\0"].concat()
    };
    assert_eq!(run(&with(|header| header.mtime_nsec = 1_000_000_000)).1, 1);
    assert!(
        run(&with(|header| header.mtime_nsec = 1_000_000_000))
            .2
            .is_none()
    );
    assert_eq!(run(&with(|header| header.file_len = 1 << 63)).1, 122);
    assert_eq!(run(&with(|header| header.name_len = 16_384)).1, 36);
    assert_eq!(run(&with(|header| header.name_len = u32::MAX)).1, 36);
}

#[test]
fn nothing_half_written_has_a_name() {
    let (dir, _, _) = run(&entry(b"a", FILE, &[7; 100])[..80]);
    let left: Vec<_> = fs::read_dir(dir.path().join("in")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(Path::new(dir.path()).exists());
}
