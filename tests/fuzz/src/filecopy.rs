//! The receiver of file copies, driven by any bytes into a directory that is looked at afterwards.
//!
//! The first byte of an input says what the receiver takes (bit 0 any characters, bit 1 one file, bit 2 at most
//! [`MAX_BYTES`], bit 3 at most [`MAX_ENTRIES`]), the second is the length of the pieces, the rest is the stream.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
};

use casemate_filecopy::{Outcome, Rules, receive};

/// Bytes that may come where there is a limit.
pub const MAX_BYTES: u64 = 64;
/// Entries that may come where there is a limit.
pub const MAX_ENTRIES: u64 = 3;

/// What became of a stream: exit status, answer, and what landed, with mode and content or target.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    status: u8,
    answer: Vec<u8>,
    landed: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

/// A stream that comes in pieces.
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (now, rest) = self
            .rest
            .split_at(self.piece.min(buffer.len()).min(self.rest.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.rest = rest;
        Ok(now.len())
    }
}

/// Receives a stream. Nothing lands outside; what lands is of the three kinds and within the rules; links stay below
/// the top; the answer says what was read; the pieces make no difference.
pub fn stream(input: &[u8]) {
    let [flags, piece, stream @ ..] = input else {
        return;
    };
    let flag = |bit: u8| flags & 1 << bit != 0;
    let rules = Rules {
        any_characters: flag(0),
        one_file: flag(1),
        max_bytes: flag(2).then_some(MAX_BYTES),
        max_entries: flag(3).then_some(MAX_ENTRIES),
    };
    let at_once = run(&rules, stream, stream.len().max(1));
    let in_pieces = run(&rules, stream, usize::from(*piece).max(1));
    assert_eq!(at_once, in_pieces, "pieces make a difference");
}

fn run(rules: &Rules, stream: &[u8], piece: usize) -> Ended {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let base = base.join(format!("casemate-fuzz-{}", std::process::id()));
    for name in ["in", "out"] {
        fs::create_dir_all(base.join(name)).expect("a directory");
    }
    let root = fs::File::open(base.join("in"))
        .expect("the directory")
        .into();
    let mut input = Pieces {
        rest: stream,
        piece,
    };
    let mut answer = Vec::new();
    let status = receive(&root, rules, &mut input, &mut answer, &mut |_| {})
        .expect("memory takes the answer");
    let read = &stream[..stream.len() - input.rest.len()];
    check_answer(status, &answer, read);
    let mut landed = BTreeMap::new();
    look(&base.join("in"), Path::new(""), &mut landed);
    check_landed(rules, &landed);
    let around = |path: &Path| fs::read_dir(path).expect("a directory").count();
    assert_eq!(around(&base), 2, "something landed beside the directory");
    assert_eq!(around(&base.join("out")), 0, "something landed outside");
    fs::remove_dir_all(&base).expect("it can be removed");
    Ended {
        status,
        answer,
        landed,
    }
}

fn check_answer(status: u8, answer: &[u8], read: &[u8]) {
    if answer.is_empty() {
        assert_eq!(status, 1, "no answer");
        return;
    }
    let outcome = Outcome::read(&mut &*answer).expect("an answer");
    assert_eq!(status, outcome.error.to_le_bytes()[0]);
    if outcome.error == 0 {
        assert_eq!(outcome.crc, crc32(read), "the sum of what was read");
        assert_eq!(read[read.len() - 32..][..4], [0; 4], "no end marker");
    }
    let mut again = Vec::new();
    outcome.write(&mut again).expect("memory");
    assert_eq!(again, answer);
}

/// CRC-32 as the specification means it, without tables.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Takes note of everything below, and makes it removable.
fn look(root: &Path, below: &Path, landed: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(root.join(below)).expect("a directory") {
        let name = below.join(entry.expect("an entry").file_name());
        let path = root.join(&name);
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        let content = if metadata.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            target.as_os_str().as_bytes().to_vec()
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
            if metadata.is_dir() {
                look(root, &name, landed);
                Vec::new()
            } else {
                assert!(metadata.is_file(), "neither file, link nor directory");
                fs::read(&path).expect("a file")
            }
        };
        landed.insert(name, (metadata.mode(), content));
    }
}

fn check_landed(rules: &Rules, landed: &BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    const LINK: u32 = 0o120_000;
    let mut bytes = 0;
    for (name, (mode, content)) in landed {
        bytes += content.len() as u64;
        let text = name.as_os_str().as_bytes();
        let shown = |bytes: &[u8]| {
            str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control))
        };
        assert!(rules.any_characters || shown(text), "{name:?}");
        if mode & 0o170_000 == LINK {
            assert!(rules.any_characters || shown(content), "{name:?}");
            assert!(stays(name, content), "{name:?} leads out");
        }
        if rules.one_file {
            assert_eq!((landed.len(), mode & 0o170_000), (1, 0o100_000));
        }
    }
    assert!(rules.max_bytes.is_none_or(|most| bytes <= most));
    assert!(
        rules
            .max_entries
            .is_none_or(|most| landed.len() as u64 <= most)
    );
}

/// Whether a link, read as text, never leaves the top component that it is in.
fn stays(name: &Path, target: &[u8]) -> bool {
    let mut depth = name.components().count() - 1;
    for component in Path::new(std::ffi::OsStr::from_bytes(target)).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 1 => depth -= 1,
            _ => return false,
        }
    }
    depth >= 1
}
