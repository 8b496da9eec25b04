//! Recorded streams of file copies and what the reference made of them, through the real program.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
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

/// Path in hex, to mode, size of a file, target of a link, and time of a file.
type Tree = BTreeMap<Vec<u8>, (u32, Option<u64>, Option<Vec<u8>>, Option<i128>)>;

fn tree(root: &Path, below: &Path, into: &mut Tree) {
    for entry in fs::read_dir(root.join(below)).expect("a directory") {
        let path = below.join(entry.expect("an entry").file_name());
        let metadata = fs::symlink_metadata(root.join(&path)).expect("it is there");
        let link = metadata
            .is_symlink()
            .then(|| fs::read_link(root.join(&path)).expect("a link"));
        let link = link.map(|link| link.as_os_str().as_bytes().to_vec());
        let file = metadata.is_file();
        let time = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let found = (
            metadata.mode(),
            file.then_some(metadata.len()),
            link,
            file.then_some(time),
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
        // Times of directories and links are those of the recording.
        let file = mode & 0o170_000 == 0o100_000;
        let found = (
            mode,
            entry["size"].as_u64().filter(|_| file),
            entry["link"].as_str().map(|link| link.as_bytes().to_vec()),
            entry["mtime"].as_i64().map(i128::from).filter(|_| file),
        );
        all.insert(bytes(entry["path"].as_str().expect("a path")), found);
    }
    all
}

#[test]
fn recorded_copies_end_as_recorded() {
    let cases: Value = serde_json::from_str(CASES).expect("the cases are JSON");
    let mut ran = 0;
    for case in cases.as_array().expect("cases") {
        // Three long streams were recorded by their sums only.
        let Some(stream) = case["stream_hex"].as_str() else {
            continue;
        };
        ran += 1;
        let name = case["name"].as_str().expect("a name");
        let dir = tempfile::tempdir().expect("a directory");
        let output = receive(&bytes(stream), dir.path());
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
            let last = output.stdout.get(20..).unwrap_or_default();
            let recorded = bytes(case["last_name_hex"].as_str().expect("a name"));
            assert_eq!(
                OsStr::from_bytes(last),
                OsStr::from_bytes(&recorded),
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
    assert_eq!(ran, 27);
}
