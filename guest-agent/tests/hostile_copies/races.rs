//! B11-5: the receiving VM's user moves directories while files come.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{
    place::{EEXIST, ENOENT, ENOTDIR, EPERM, Place, outcome, until_it_waits},
    support::copies::{END, directory, file},
};

/// Copies during the race.
const RUNS: u32 = 20;

#[test]
fn b11_5_directories_that_move_while_files_come() {
    let place = Place::new();
    let (d, aside) = (place.root().join("d"), place.root().join("aside"));
    let over = AtomicBool::new(false);
    let mut results = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Whatever fails, fails: the other one may be quicker.
                if fs::rename(&d, &aside).is_err() {
                    let _ = fs::remove_dir_all(&aside);
                }
                let _ = symlink("../outside", &d);
                let _ = fs::remove_file(&d);
                let _ = fs::rename(&aside, &d);
            }
        });
        for run in 0..RUNS {
            let files = (0..1000).flat_map(|n| file(&format!("d/{run}-{n}"), b"mine"));
            let stream: Vec<u8> = directory("d").into_iter().chain(files).chain(END).collect();
            results.push(place.receive(&stream));
        }
        over.store(true, Ordering::Relaxed);
    });
    for result in &results {
        // EPERM is what ext4 says to a nameless file in a directory that was just removed.
        assert!(
            matches!(result, Ok(()) | Err(EPERM | ENOENT | ENOTDIR | EEXIST)),
            "{results:?}"
        );
    }
    assert!(
        results.iter().any(Result::is_err),
        "the race was never lost"
    );
    assert_eq!(
        fs::read_dir(place.dir.path().join("outside"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn b11_5_a_directory_that_moves_while_a_file_comes() {
    type Move = fn(&Path);
    let moves: [(&str, Move, u32); 3] = [
        (
            "away, a link in its place",
            |root| {
                fs::rename(root.join("in/d"), root.join("moved")).unwrap();
                symlink("../outside", root.join("in/d")).unwrap();
            },
            ENOTDIR,
        ),
        (
            "away",
            |root| fs::rename(root.join("in/d"), root.join("moved")).unwrap(),
            ENOENT,
        ),
        (
            "away, a file in its place",
            |root| {
                fs::rename(root.join("in/d"), root.join("moved")).unwrap();
                fs::write(root.join("in/d"), "").unwrap();
            },
            ENOTDIR,
        ),
    ];
    for (what, change, error) in moves {
        let place = Place::new();
        let mut child = place.start(&[]);
        let mut input = child.stdin.take().unwrap();
        let stream = [directory("d"), file("d/f", b"content")].concat();
        let (first, rest) = stream.split_at(stream.len() - 3);
        input.write_all(first).unwrap();
        until_it_waits(&child, &input);
        change(place.dir.path());
        input.write_all(rest).unwrap();
        let _ = input.write_all(&END);
        drop(input);
        assert_eq!(outcome(child), Err(error), "{what}");
        let root = place.dir.path();
        assert_eq!(
            fs::read_dir(root.join("moved")).unwrap().count(),
            0,
            "{what}"
        );
        assert_eq!(
            fs::read_dir(root.join("outside")).unwrap().count(),
            1,
            "{what}"
        );
    }
}
