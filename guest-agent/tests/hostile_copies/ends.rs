//! B11-6 full disks, limits and lost ends, B11-7 ends that are none.

use std::{
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
};

use crate::{
    place::{EFBIG, ENDED_INSIDE, ENOSPC, EREMOTEIO, Place, finish, in_namespace, until_it_waits},
    support::copies::{END, boundaries, file, whole},
};

#[test]
fn b11_6_a_full_disk_and_a_limit_of_the_account() {
    let place = Place::new();
    let in_tmpfs = |options: &str, then: &str| {
        format!(
            r#"mount -t tmpfs -o {options} none "$1/in"; "$2" service qubes.Filecopy --incoming "$1/in" || code=$?
            {then}; exit $code"#
        )
    };
    let full = in_tmpfs("size=64k", r#"[ "$(ls "$1/in")" = a ] || exit 77"#);
    let stream = [
        file("a", &[7; 4096]),
        file("b", &[7; 100_000]),
        END.to_vec(),
    ]
    .concat();
    assert_eq!(finish(in_namespace(&place, &full), &stream), Err(ENOSPC));
    let files = in_tmpfs(
        "nr_inodes=4",
        r#"[ "$(ls "$1/in" | wc -l)" -le 4 ] || exit 77"#,
    );
    let stream: Vec<u8> = (0..10).flat_map(|n| file(&n.to_string(), b"")).collect();
    assert_eq!(finish(in_namespace(&place, &files), &stream), Err(ENOSPC));
    let limit = r#"ulimit -f 8; exec "$2" service qubes.Filecopy --incoming "$1/in""#;
    let stream = [file("a", &[7; 100_000]), END.to_vec()].concat();
    assert_eq!(finish(in_namespace(&place, limit), &stream), Err(EFBIG));
    place.check(&[], "nothing half-made");
    let read_only =
        r#"mount -t tmpfs -o ro none "$1/in"; exec "$2" service qubes.Filecopy --incoming "$1/in""#;
    let child = in_namespace(&place, read_only);
    assert_eq!(finish(child, &file("a", b"1")), Err(30));
}

#[test]
fn b11_6_a_receiver_killed_at_each_boundary_leaves_whole_entries() {
    let (stream, ends) = boundaries();
    for end in ends {
        let place = Place::new();
        let mut child = place.start(&[]);
        let mut input = child.stdin.take().unwrap();
        input.write_all(&stream[..end]).unwrap();
        until_it_waits(&child, &input);
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(9));
        assert!(output.stdout.is_empty(), "an outcome after {end} bytes");
        place.check(&whole(end), &format!("killed after {end} bytes"));
    }
}

#[test]
fn b11_6_a_sender_lost_at_each_boundary_leaves_whole_entries() {
    let (stream, ends) = boundaries();
    let between = |end: usize| {
        // Within a header nothing has begun; within a name or a content something has.
        let mut start = 0;
        for length in [34, 43, 42, 44, 34] {
            if end < start + 32 {
                return true;
            }
            if end < start + length {
                return false;
            }
            start += length;
        }
        true
    };
    for end in ends {
        let place = Place::new();
        let expected = if between(end) {
            EREMOTEIO
        } else {
            ENDED_INSIDE
        };
        assert_eq!(
            place.receive(&stream[..end]),
            Err(expected),
            "after {end} bytes"
        );
        place.check(&whole(end), &format!("lost after {end} bytes"));
    }
    let place = Place::new();
    assert_eq!(place.receive(&stream), Ok(()));
    place.check(&whole(stream.len()), "whole");
}

#[test]
fn b11_7_ends() {
    // Done early, and the stream kept open: the receiver does not wait for more.
    let place = Place::new();
    let mut child = place.start(&[]);
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(&[file("a", b"1"), END.to_vec()].concat())
        .unwrap();
    let mut answer = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut answer)
        .unwrap();
    assert_eq!(answer[..4], [0; 4]);
    assert!(child.wait().unwrap().success());
    drop(input);
    place.check(&[("a", "1")], "done early");
    // What follows the end marker is nobody's.
    let place = Place::new();
    let stream = [
        file("a", b"1"),
        END.to_vec(),
        file("../b", b"2"),
        vec![0xff; 1000],
    ]
    .concat();
    assert_eq!(place.receive(&stream), Ok(()));
    place.check(&[("a", "1")], "trailing garbage");
    let place = Place::new();
    assert_eq!(place.receive(&file("a", b"1")), Err(EREMOTEIO));
    place.check(&[("a", "1")], "no end marker");
}
