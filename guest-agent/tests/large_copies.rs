//! Copies that are large by number or by length, from end to end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Command, Stdio},
};

use support::pair::Pair;

/// Files of the copy of many.
const FILES: usize = 10_000;

#[test]
fn ten_thousand_small_files_cross_from_vm_to_vm() {
    let mut pair = Pair::start();
    let incoming = pair.callee.dir.path().join("incoming");
    let script = format!(
        "#!/bin/sh\nexec {} service qubes.Filecopy --incoming {}\n",
        env!("CARGO_BIN_EXE_casemate-agent"),
        incoming.display()
    );
    pair.callee.service("qubes.Filecopy", &script);
    let tree = pair.caller.dir.path().join("many");
    let name = |number: usize| format!("{:02}/{number}", number % 100);
    let content = |number: usize| number.to_string().repeat(number % 500);
    for directory in 0..100 {
        fs::create_dir_all(tree.join(format!("{directory:02}"))).unwrap();
    }
    for number in 0..FILES {
        fs::write(tree.join(name(number)), content(number)).unwrap();
    }
    let tool = pair.call(&["qvm-move", tree.to_str().unwrap()]);
    let ended = tool.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((said.as_str(), ended.status.code()), ("", Some(0)));
    pair.over();
    for number in 0..FILES {
        let got = fs::read_to_string(incoming.join("many").join(name(number))).unwrap();
        assert!(got == content(number), "file {number}");
    }
    let directories = fs::read_dir(incoming.join("many")).unwrap();
    let files = directories.map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count());
    assert_eq!(files.sum::<usize>(), FILES);
    assert!(!tree.exists(), "what was moved is gone");
}

/// Where a sparse file has data: at its start, at places of its own, and in its last byte.
const DATA: &[u8] = b"here";

/// Copies a file of `length` bytes with five places of data, through sender and receiver as the tools run them, and
/// checks that the copy is the same and as sparse.
fn a_sparse_file_stays_sparse(length: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (source, incoming) = (dir.path().join("sparse"), dir.path().join("in"));
    let file = File::create(&source).unwrap();
    file.set_len(length).unwrap();
    let last = length - DATA.len() as u64;
    let places = [0, length / 3, length / 2 + 1, length / 2 + 5000, last];
    for place in places {
        file.write_all_at(DATA, place).unwrap();
    }
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20, "holes");
    let agent = env!("CARGO_BIN_EXE_casemate-agent");
    // Each one's output is the other one's input.
    let (answer_out, answer_in) = rustix::pipe::pipe().map(|(r, w)| (w, r)).unwrap();
    let mut sender = Command::new(agent)
        .args(["send-files", "--"])
        .arg(&source)
        .stdin(answer_in)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let receiver = Command::new(agent)
        .args(["service", "qubes.Filecopy", "--incoming"])
        .arg(&incoming)
        .stdin(sender.stdout.take().unwrap())
        .stdout(answer_out)
        .status()
        .unwrap();
    assert!(receiver.success());
    assert!(sender.wait().unwrap().success());
    let copy = incoming.join("sparse");
    let metadata = fs::metadata(&copy).unwrap();
    assert_eq!(metadata.len(), length);
    assert!(
        metadata.blocks() * 512 < 1 << 20,
        "{} blocks for five places of data",
        metadata.blocks()
    );
    same(&source, &copy);
}

/// Compares the data of two sparse files; holes are equal without being read.
fn same(one: &Path, other: &Path) {
    let (one, other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&one, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&one, rustix::fs::SeekFrom::Hole(data)).unwrap();
        let mut buffers = [(); 2].map(|()| vec![0; usize::try_from(end - data).unwrap()]);
        one.read_exact_at(&mut buffers[0], data).unwrap();
        other.read_exact_at(&mut buffers[1], data).unwrap();
        assert!(buffers[0] == buffers[1], "data at {data}");
        at = end;
    }
    // Where the first has a hole the second has one or zeros.
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&other, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&other, rustix::fs::SeekFrom::Hole(data)).unwrap();
        let length = usize::try_from(end - data).unwrap();
        let mut buffers = [(); 2].map(|()| vec![0; length]);
        one.read_exact_at(&mut buffers[0], data).unwrap();
        other.read_exact_at(&mut buffers[1], data).unwrap();
        assert!(buffers[0] == buffers[1], "data at {data}");
        at = end;
    }
}

#[test]
fn a_sparse_file_of_a_gigabyte_stays_sparse() {
    a_sparse_file_stays_sparse(1 << 30);
}

#[test]
#[ignore = "takes minutes without optimisation; `cargo nextest run --cargo-profile release --run-ignored all -E 'test(20_gb)'`"]
fn a_sparse_file_of_20_gb_stays_sparse() {
    a_sparse_file_stays_sparse(20_000_000_000);
}

#[test]
fn a_refusal_is_heard_long_before_everything_is_sent() {
    // The receiver refuses at once and its relay goes on to swallow what comes: here, a reader that takes everything.
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("long");
    let file = File::create(&source).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut sender = Command::new(env!("CARGO_BIN_EXE_casemate-agent"))
        .args(["send-files", "--"])
        .arg(&source)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stream = BufReader::new(sender.stdout.take().unwrap());
    stream.read_exact(&mut [0; 32]).unwrap();
    let refusal = [
        &17_u32.to_le_bytes()[..],
        &[0; 12],
        &4_u32.to_le_bytes(),
        b"long",
    ]
    .concat();
    std::io::Write::write_all(&mut sender.stdin.take().unwrap(), &refusal).unwrap();
    let sent = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    assert!(sent < 64_000_000, "{sent} bytes after the refusal");
    let ended = sender.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("'long' exists"), "{said}");
}
