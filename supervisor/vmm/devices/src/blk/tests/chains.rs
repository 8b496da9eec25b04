//! Chains that no driver would make: each comes back, and the next request is served.

use super::*;
use crate::scatter::MAX_SEGMENTS;

fn guest() -> (Guest, File) {
    let file = file(&pattern(bytes(SECTORS), 0));
    (Guest::raw(&file, Access::ReadWrite), file)
}

fn still_works(guest: &mut Guest, after: &str) {
    let answer = guest.request(IN, 1, &[], 512);
    assert_eq!(answer.status, OK, "after {after}");
    assert_eq!(
        answer.data,
        pattern(bytes(SECTORS), 0)[512..1024],
        "after {after}"
    );
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let header = |list: &[u32]| {
        let mut at = HEADER_AT;
        let mut parts = Vec::new();
        for len in list {
            parts.push((at, *len, 0, 0));
            at += u64::from(*len);
        }
        parts
    };
    let status = (STATUS_AT, 1, WRITE, 0);
    let rows: &[(&str, Vec<Descriptor>)] = &[
        (
            "header in bytes",
            [header(&[1; 16]), vec![(IN_AT, 512, WRITE, 0), status]].concat(),
        ),
        (
            "header in three",
            [header(&[4, 4, 8]), vec![(IN_AT, 512, WRITE, 0), status]].concat(),
        ),
        (
            "data in five",
            [
                header(&[16]),
                vec![
                    (IN_AT, 1, WRITE, 0),
                    (IN_AT + 1, 255, WRITE, 0),
                    (IN_AT + 256, 100, WRITE, 0),
                    (IN_AT + 356, 100, WRITE, 0),
                    (IN_AT + 456, 56, WRITE, 0),
                    status,
                ],
            ]
            .concat(),
        ),
        (
            "empty buffers",
            [
                header(&[16, 0]),
                vec![
                    (0, 0, WRITE, 0),
                    (IN_AT, 512, WRITE, 0),
                    (1 << 40, 0, WRITE, 0),
                    status,
                ],
            ]
            .concat(),
        ),
    ];
    for (name, descriptors) in rows {
        let (mut guest, _) = guest();
        guest.put_header(IN, 2);
        assert_eq!(guest.submit(descriptors), 513, "{name}");
        assert_eq!(guest.read(STATUS_AT, 1), [OK], "{name}");
        let expected = &pattern(bytes(SECTORS), 0)[1024..1536];
        assert_eq!(guest.read(IN_AT, 512), expected, "{name}");
    }
}

#[test]
fn the_status_may_share_a_buffer_with_the_data() {
    let (mut guest, _) = guest();
    guest.put_header(IN, 0);
    assert_eq!(
        guest.submit(&[(HEADER_AT, 16, 0, 0), (IN_AT, 513, WRITE, 0)]),
        513
    );
    assert_eq!(guest.read(IN_AT, 512), pattern(512, 0));
    assert_eq!(guest.read(IN_AT + 512, 1), [OK]);
}

#[test]
fn malformed_chains_come_back_without_effect() {
    let end = crate::fake::MEMORY;
    let header = (HEADER_AT, 16, NEXT, 1);
    let out = (OUT_AT, 512, NEXT, 2);
    let status = (STATUS_AT, 1, WRITE, 0);
    // Status 0xee: nothing was written at all.
    let rows: &[(&str, &[Descriptor], u8)] = &[
        ("no status", &[header, (OUT_AT, 512, 0, 0)], UNANSWERED),
        ("only a header", &[(HEADER_AT, 16, 0, 0)], UNANSWERED),
        ("only a status", &[status], IO_ERROR),
        (
            "short header",
            &[(HEADER_AT, 15, NEXT, 1), status],
            IO_ERROR,
        ),
        (
            "status is readable",
            &[header, out, (STATUS_AT, 1, 0, 0)],
            UNANSWERED,
        ),
        (
            "status is empty",
            &[header, out, (STATUS_AT, 0, WRITE, 0)],
            UNANSWERED,
        ),
        (
            "header is writable",
            &[(HEADER_AT, 16, WRITE | NEXT, 1), out, status],
            UNANSWERED,
        ),
        (
            "readable after writable",
            &[
                header,
                (IN_AT, 512, WRITE | NEXT, 2),
                (OUT_AT, 512, NEXT, 3),
                status,
            ],
            UNANSWERED,
        ),
        ("header loops", &[(HEADER_AT, 16, NEXT, 0)], UNANSWERED),
        (
            "two descriptors loop",
            &[header, (OUT_AT, 512, NEXT, 0)],
            UNANSWERED,
        ),
        (
            "next out of range",
            &[header, (OUT_AT, 512, NEXT, 16)],
            UNANSWERED,
        ),
        (
            "next far out of range",
            &[header, (OUT_AT, 512, NEXT, 0xffff)],
            UNANSWERED,
        ),
        (
            "data outside",
            &[header, (end, 512, NEXT, 2), status],
            UNANSWERED,
        ),
        (
            "data straddles the end",
            &[header, (end - 511, 512, NEXT, 2), status],
            UNANSWERED,
        ),
        (
            "data wraps",
            &[header, (0xffff_ffff_ffff_ff00, 512, NEXT, 2), status],
            UNANSWERED,
        ),
        (
            "data of 4 GiB",
            &[header, (0, u32::MAX, NEXT, 2), status],
            UNANSWERED,
        ),
        (
            "status outside",
            &[header, out, (end, 1, WRITE, 0)],
            UNANSWERED,
        ),
        (
            "header outside",
            &[(u64::MAX, 16, NEXT, 1), out, status],
            UNANSWERED,
        ),
        ("table empty", &[(TABLE_AT, 0, INDIRECT, 0)], UNANSWERED),
        (
            "table of 17 bytes",
            &[(TABLE_AT, 17, INDIRECT, 0)],
            UNANSWERED,
        ),
        ("table outside", &[(end, 32, INDIRECT, 0)], UNANSWERED),
        (
            "table crosses the end",
            &[(end - 16, 48, INDIRECT, 0)],
            UNANSWERED,
        ),
        (
            "table too large",
            &[(0, 0x10_0000, INDIRECT, 0)],
            UNANSWERED,
        ),
        (
            "table in a table",
            &[(TABLE_AT + 0x800, 16, INDIRECT, 0)],
            UNANSWERED,
        ),
        ("table of itself", &[(0x1000, 16, INDIRECT, 0)], UNANSWERED),
        (
            "goes on out of range after the status",
            &[header, out, (STATUS_AT, 1, WRITE | NEXT, 99)],
            UNANSWERED,
        ),
        (
            "loops after the status",
            &[header, out, (STATUS_AT, 1, WRITE | NEXT, 2)],
            UNANSWERED,
        ),
        (
            "unknown flags",
            &[
                (HEADER_AT, 16, NEXT | 0xfff8, 1),
                (OUT_AT, 512, NEXT | 0x100, 2),
                status,
            ],
            OK,
        ),
    ];
    let before = pattern(bytes(SECTORS), 0);
    for (name, descriptors, expected) in rows {
        let (mut guest, file) = guest();
        guest.put_header(OUT, 0);
        guest.write(OUT_AT, &before[..512]);
        // Its first entry says NEXT and leads out of the memory; its second, at 0x800, is another table.
        guest.machine.table(TABLE_AT, &[(HEADER_AT, 16, NEXT, 1)]);
        guest
            .machine
            .table(TABLE_AT + 0x800, &[(TABLE_AT, 32, INDIRECT, 0)]);
        guest.machine.table(end - 16, &[(HEADER_AT, 16, NEXT, 1)]);
        let used = guest.submit_raw(descriptors);
        let status = guest.read(STATUS_AT, 1)[0];
        assert_eq!(status, *expected, "{name}");
        assert_eq!(used, u32::from(status != UNANSWERED), "{name}");
        assert_eq!(contents(&file), before, "{name}");
        assert!(!guest.machine.interrupt.is_broken(), "{name}");
        still_works(&mut guest, name);
    }
}

#[test]
fn size_and_number_of_buffers_are_limited() {
    let rows: &[(&str, usize, u32, u8)] = &[
        ("128 buffers of 128 KiB", 128, 128 << 10, OK),
        ("one buffer more", 129, 512, IO_ERROR),
        ("128 buffers", 128, 512, OK),
        (
            "64 buffers and a sector too much",
            64,
            (256 << 10) + 512,
            IO_ERROR,
        ),
        ("more than can be listed", MAX_SEGMENTS + 1, 512, UNANSWERED),
        ("far more than can be listed", 1500, 512, UNANSWERED),
    ];
    let file = tempfile::tempfile().expect("a file");
    file.set_len(64 << 20).expect("sparse");
    for (name, count, len, expected) in rows {
        let mut guest = Guest::raw(&file, Access::ReadWrite);
        guest.put_header(IN, 0);
        let mut descriptors = vec![(HEADER_AT, 16, 0, 0)];
        // All of them the same memory: a driver may, and gets what it asked for.
        descriptors.extend(vec![(IN_AT, *len, WRITE, 0); *count]);
        descriptors.push((STATUS_AT, 1, WRITE, 0));
        guest.submit(&descriptors);
        assert_eq!(guest.read(STATUS_AT, 1), [*expected], "{name}");
    }
}

#[test]
fn the_same_head_is_served_as_often_as_it_is_offered() {
    let (guest, file) = guest();
    guest.put_header(OUT, 3);
    guest.write(OUT_AT, &[0x5a; 512]);
    let chain = [
        (HEADER_AT, 16, NEXT, 1),
        (OUT_AT, 512, NEXT, 2),
        (STATUS_AT, 1, WRITE, 0),
    ];
    guest.machine.offer(0, &chain, &[0, 0, 0, 2, 0]);
    guest.machine.kick(0);
    assert_eq!(
        guest.machine.used(0),
        [(0, 1), (0, 1), (0, 1), (2, 1), (0, 1)]
    );
    assert_eq!(contents(&file)[1536..2048], [0x5a; 512]);
}

#[test]
fn broken_rings_stop_the_device_until_it_is_reset() {
    for (name, heads, jump) in [
        ("head out of range", &[16_u16][..], 0_u16),
        ("last head", &[0xffff], 0),
        ("index runs ahead", &[], 17),
        ("index runs far ahead", &[], 0x8000),
        ("index runs back", &[], 0xffff),
    ] {
        let (mut guest, _) = guest();
        guest.put_header(IN, 0);
        guest.machine.offer(0, &[], heads);
        if jump != 0 {
            guest.machine.set_available(0, jump);
        }
        guest.machine.kick(0);
        assert!(guest.machine.interrupt.is_broken(), "{name}");
        guest.machine.kick(0);
        assert_eq!(guest.machine.used(0), [], "{name}");
        guest.machine.restart();
        guest.answered = 0;
        still_works(&mut guest, name);
    }
}

#[test]
fn events_that_mean_nothing_are_ignored() {
    let (mut guest, _) = guest();
    for token in [0, 1, 2, 0xffff_ffff] {
        guest.machine.ready(token);
    }
    still_works(&mut guest, "stray events");
    guest.machine.restart();
    guest.machine.restart();
    guest.answered = 0;
    still_works(&mut guest, "two resets");
}
