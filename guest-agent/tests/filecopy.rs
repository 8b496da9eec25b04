//! Recorded streams of file copies and what the reference made of them, through the real program.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const CASES: &str = include_str!("fixtures/filecopy.json");

/// Cases in which the reference leaves a file without a name's rights behind; nothing half-made stays here.
const NOTHING_LEFT: [&str; 2] = ["filelen 2^64-1", "mtime nsec 1e9"];

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("hex");
            u8::from_str_radix(pair, 16).expect("hex")
        })
        .collect()
}

fn receive(stream: &[u8], incoming: &Path) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_casemate-agent"))
        .args(["service", "qubes.Filecopy", "--incoming"])
        .arg(incoming)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the agent starts");
    // It may have refused and gone before it read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(stream);
    child.wait_with_output().expect("it ends")
}

/// The time that every recorded header has. Another one is that of the recording, which says: it was not set.
const SENT: i128 = 1_500_000_000_123_456_789;

/// Longest link target that was recorded whole.
const RECORDED_TARGET: usize = 60;

/// The streams that were recorded by their length and sum only, made again.
fn made_again(name: &str) -> Vec<u8> {
    let header = |name_len: u32, mode: u32, file_len: u64| {
        let mut bytes = [name_len.to_le_bytes(), mode.to_le_bytes()].concat();
        bytes.extend(file_len.to_le_bytes());
        for time in [1_u32, 2, 1_500_000_000, 123_456_789] {
            bytes.extend(time.to_le_bytes());
        }
        bytes
    };
    let entry = |name: &str, mode: u32, content: &[u8]| {
        let name_len = u32::try_from(name.len() + 1).expect("a short name");
        let header = header(name_len, mode, content.len() as u64);
        [&header[..], name.as_bytes(), b"\0", content].concat()
    };
    let entries = match name {
        "link target 4095" => {
            let target = "b/".repeat(2047) + "b";
            [
                entry("x", 0o040_755, b""),
                entry("x/a", 0o120_777, target.as_bytes()),
            ]
            .concat()
        }
        "5000 byte file" => {
            let content: Vec<u8> = (0..20).flat_map(|_| 0..=255).collect();
            entry("a", 0o100_644, &content)
        }
        "namelen 16384" => [header(16_384, 0o100_644, 2), vec![b'b'; 16_384]].concat(),
        _ => panic!("no recipe for '{name}'"),
    };
    [entries, vec![0; 32]].concat()
}

/// Path, to mode, size of a file, beginning of a link's target, and the time that was sent, where it was set.
type Tree = BTreeMap<Vec<u8>, (u32, Option<u64>, Option<Vec<u8>>, Option<i128>)>;

fn tree(root: &Path, below: &Path, into: &mut Tree) {
    for entry in fs::read_dir(root.join(below)).expect("a directory") {
        let path = below.join(entry.expect("an entry").file_name());
        let metadata = fs::symlink_metadata(root.join(&path)).expect("it is there");
        let link = metadata
            .is_symlink()
            .then(|| fs::read_link(root.join(&path)).expect("a link"));
        let link = link.map(|link| {
            let link = link.as_os_str().as_bytes();
            link[..link.len().min(RECORDED_TARGET)].to_vec()
        });
        let time = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let found = (
            metadata.mode(),
            metadata.is_file().then_some(metadata.len()),
            link,
            (time == SENT).then_some(SENT),
        );
        into.insert(path.as_os_str().as_bytes().to_vec(), found);
        if metadata.is_dir() {
            tree(root, &path, into);
        }
    }
}

fn recorded_tree(case: &Value) -> Tree {
    let mut all = Tree::new();
    for entry in case["tree"].as_array().expect("a tree") {
        let mode = entry["mode"].as_str().expect("a mode");
        let mode = u32::from_str_radix(&mode[2..], 8).expect("octal");
        let file = mode & 0o170_000 == 0o100_000;
        let found = (
            mode,
            entry["size"].as_u64().filter(|_| file),
            entry["link"].as_str().map(|link| link.as_bytes().to_vec()),
            entry["mtime"]
                .as_i64()
                .map(i128::from)
                .filter(|time| *time == SENT),
        );
        all.insert(bytes(entry["path"].as_str().expect("a path")), found);
    }
    all
}

#[test]
fn recorded_copies_end_as_recorded() {
    let cases: Value = serde_json::from_str(CASES).expect("the cases are JSON");
    let cases = cases.as_array().expect("cases");
    assert_eq!(cases.len(), 30);
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let dir = tempfile::tempdir().expect("a directory");
        let stream = match case["stream_hex"].as_str() {
            Some(stream) => bytes(stream),
            None => made_again(name),
        };
        assert_eq!(
            (
                Some(stream.len() as u64),
                Some(u64::from(crc32fast::hash(&stream)))
            ),
            (case["stream_len"].as_u64(), case["stream_crc32"].as_u64()),
            "{name}: stream"
        );
        let output = receive(&stream, dir.path());
        let code = output.status.code();
        assert_eq!(code.map(i64::from), case["exit"].as_i64(), "{name}: exit");
        if case["no_result"] == true {
            assert!(output.stdout.is_empty(), "{name}: result");
        } else {
            let word = |at: usize, size: usize| {
                let mut number = [0; 8];
                number[..size].copy_from_slice(&output.stdout[at..at + size]);
                u64::from_le_bytes(number)
            };
            assert_eq!(
                Some(word(0, 4)),
                case["error_code"].as_u64(),
                "{name}: error"
            );
            assert_eq!(Some(word(8, 8)), case["crc32"].as_u64(), "{name}: sum");
            // An entry whose name was not taken in has none, and no length of it.
            let recorded = case["last_name_hex"].as_str().map(|name| {
                let name = bytes(name);
                let length = u32::try_from(name.len()).expect("a short name");
                [&length.to_le_bytes()[..], &name].concat()
            });
            assert_eq!(
                output.stdout[16..].escape_ascii().to_string(),
                recorded.unwrap_or_default().escape_ascii().to_string(),
                "{name}: last name"
            );
        }
        let mut found = Tree::new();
        tree(dir.path(), Path::new(""), &mut found);
        let expected = match NOTHING_LEFT.contains(&name) {
            true => Tree::new(),
            false => recorded_tree(case),
        };
        assert_eq!(found, expected, "{name}: tree");
    }
}
