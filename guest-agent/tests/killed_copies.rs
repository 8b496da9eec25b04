//! Two VMs copy a directory, and either program is killed after each part of what is said: headers, names, contents. What
//! has come is whole entries and nothing else, no program is left, and whoever moves keeps what it has.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use support::{
    STDIN,
    between::{Between, Carry},
    kill,
    pair::Pair,
    served_by, wait_until,
};

const AGENT: &str = env!("CARGO_BIN_EXE_casemate-agent");

/// Paths, and what is there.
type Tree = BTreeMap<PathBuf, String>;

struct Copying {
    pair: Pair,
    source: PathBuf,
    incoming: PathBuf,
}

impl Copying {
    fn new() -> Self {
        let pair = Pair::start();
        let incoming = pair.callee.dir.path().join("incoming");
        let script = format!(
            "#!/bin/sh\nexec {AGENT} service qubes.Filecopy --incoming {}\n",
            incoming.display()
        );
        pair.callee.service("qubes.Filecopy", &script);
        let source = pair.caller.dir.path().join("d");
        fs::create_dir_all(source.join("sub")).unwrap();
        for (name, text) in [("one", "first"), ("sub/two", "second"), ("three", "")] {
            fs::write(source.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("one", source.join("link")).unwrap();
        Self {
            pair,
            source,
            incoming,
        }
    }

    /// A copy of which so many bytes come through.
    fn call(&mut self, tool: &str, input: usize) -> Between {
        let carry = Carry {
            input,
            ..Carry::all(4)
        };
        Between::call(
            &mut self.pair,
            &[tool, self.source.to_str().unwrap()],
            carry,
        )
    }

    fn receivers(&self) -> Vec<u32> {
        served_by(self.pair.callee.pid())
    }

    /// Returns when everything is in its place that was whole after so many bytes.
    fn landed(&self, entries: &[Entry], bytes: usize) {
        let whole = whole(entries, bytes);
        wait_until(&format!("{whole:?} of {bytes} bytes"), || {
            tree(&self.incoming) == whole
        });
    }
}

/// What is below a directory.
fn tree(root: &Path) -> Tree {
    fn walk(root: &Path, below: &Path, into: &mut Tree) {
        for entry in fs::read_dir(root.join(below)).into_iter().flatten() {
            // It may have got its last name meanwhile.
            let Ok(entry) = entry else { continue };
            let name = below.join(entry.file_name());
            let path = root.join(&name);
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let what = if kind.is_dir() {
                walk(root, &name, into);
                "/".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                fs::read_to_string(&path).unwrap()
            };
            into.insert(name, what);
        }
    }
    let mut found = Tree::new();
    walk(root, Path::new(""), &mut found);
    found
}

/// An entry of a stream: where its parts end, and what it is.
struct Entry {
    ends: [usize; 3],
    name: PathBuf,
    what: String,
}

/// The entries of a stream, whose last 32 bytes are the end marker.
fn entries(stream: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at + 32 < stream.len() {
        let number = |from: usize, length: usize| {
            let mut bytes = [0; 8];
            bytes[..length].copy_from_slice(&stream[at + from..][..length]);
            usize::try_from(u64::from_le_bytes(bytes)).unwrap()
        };
        let (name, mode, length) = (number(0, 4), number(4, 4), number(8, 8));
        let ends = [at + 32, at + 32 + name, at + 32 + name + length];
        let text = |part: &[u8]| String::from_utf8(part.to_vec()).unwrap();
        let content = text(&stream[ends[1]..ends[2]]);
        entries.push(Entry {
            ends,
            name: text(&stream[ends[0]..ends[1] - 1]).into(),
            what: match mode >> 12 {
                0o4 => "/".to_owned(),
                0o12 => format!("-> {content}"),
                _ => content,
            },
        });
        at = ends[2];
    }
    assert_eq!(stream[at..], [0; 32]);
    entries
}

/// What is whole after so many bytes.
fn whole(entries: &[Entry], bytes: usize) -> Tree {
    let whole = entries.iter().filter(|entry| entry.ends[2] <= bytes);
    whole
        .map(|entry| (entry.name.clone(), entry.what.clone()))
        .collect()
}

/// After each part, and inside of it.
fn cuts(entries: &[Entry]) -> Vec<usize> {
    let mut cuts = vec![0, 16];
    for entry in entries {
        for end in entry.ends {
            cuts.extend([end - 1, end, end + 1]);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// The stream of a copy that nobody disturbs, which leaves nothing behind.
fn undisturbed(copying: &mut Copying) -> Vec<Entry> {
    let mut between = copying.call("qvm-copy", usize::MAX);
    assert!(between.tool.wait().unwrap().success());
    let passed = between.over(&mut copying.pair, true);
    let input = passed.into_iter().filter(|passed| passed.kind == STDIN);
    let stream: Vec<u8> = input.flat_map(|passed| passed.body).collect();
    let entries = entries(&stream);
    assert_eq!(tree(&copying.incoming), whole(&entries, stream.len()));
    // The directory twice, its four entries, the other directory twice.
    assert_eq!(entries.len(), 8);
    fs::remove_dir_all(&copying.incoming).unwrap();
    entries
}

#[test]
fn a_sender_that_is_killed_leaves_whole_entries_and_keeps_its_own() {
    let mut copying = Copying::new();
    let entries = undisturbed(&mut copying);
    let before = tree(&copying.source);
    for bytes in cuts(&entries) {
        let mut between = copying.call("qvm-move", bytes);
        between.input(bytes);
        copying.landed(&entries, bytes);
        between.tool.kill().unwrap();
        between.tool.wait().unwrap();
        between.over(&mut copying.pair, true);
        let what = format!("after {bytes} bytes");
        wait_until(&what, || copying.receivers().is_empty());
        assert_eq!(tree(&copying.incoming), whole(&entries, bytes), "{what}");
        assert_eq!(tree(&copying.source), before, "{what}");
        let _ = fs::remove_dir_all(&copying.incoming);
    }
}

#[test]
fn a_receiver_that_is_killed_leaves_whole_entries_and_a_sender_that_keeps_its_own() {
    let mut copying = Copying::new();
    let entries = undisturbed(&mut copying);
    let before = tree(&copying.source);
    for bytes in cuts(&entries) {
        let mut between = copying.call("qvm-move", bytes);
        between.input(bytes);
        copying.landed(&entries, bytes);
        wait_until("a receiver", || !copying.receivers().is_empty());
        for pid in copying.receivers() {
            kill(pid);
        }
        let what = format!("after {bytes} bytes");
        // The code of the call, which ended by a signal.
        assert_eq!(between.tool.wait().unwrap().code(), Some(137), "{what}");
        between.over(&mut copying.pair, true);
        assert_eq!(copying.receivers(), [] as [u32; 0], "{what}");
        assert_eq!(tree(&copying.incoming), whole(&entries, bytes), "{what}");
        assert_eq!(tree(&copying.source), before, "{what}");
        let _ = fs::remove_dir_all(&copying.incoming);
    }
}
