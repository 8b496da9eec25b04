//! B11-3 modes and times, B11-4 sizes.

use std::{fs, os::unix::fs::MetadataExt};

use crate::{
    place::{EDQUOT, ENAMETOOLONG, ENDED_INSIDE, Place, finish},
    support::copies::{DIRECTORY, END, FILE, LINK, directory, entry, file, header, link},
};

#[test]
fn b11_3_modes_and_times() {
    let place = Place::new();
    let modes = [
        ("setuid", 0o104_755),
        ("setgid", 0o102_777),
        ("sticky", 0o101_777),
        ("closed", 0o100_000),
    ];
    let files = modes.map(|(name, mode)| entry(name.as_bytes(), mode, b"x"));
    let far = {
        let mut bytes = header(4, FILE, 0);
        bytes[16..20].fill(0xff);
        bytes[24..28].fill(0xff);
        [&bytes[..], b"far\0"].concat()
    };
    let stream = [files.concat(), far, END.to_vec()].concat();
    assert_eq!(place.receive(&stream), Ok(()));
    let at = |name: &str| fs::metadata(place.root().join(name)).unwrap();
    for (name, mode) in modes {
        assert_eq!(at(name).mode(), mode, "{name}");
        // The stream has no field for an owner.
        let owner = fs::metadata(place.root()).unwrap();
        assert_eq!((at(name).uid(), at(name).gid()), (owner.uid(), owner.gid()));
    }
    assert_eq!(at("far").mtime(), i64::from(u32::MAX));
    for (what, kind, at) in [
        ("atime", FILE, 20),
        ("mtime", FILE, 28),
        ("directory's mtime", DIRECTORY, 28),
    ] {
        let place = Place::new();
        let mut bytes = header(2, kind, 0);
        bytes[at..at + 4].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
        let one = [&bytes[..], b"a\0"].concat();
        let stream = [one.clone(), one, END.to_vec()].concat();
        assert_eq!(place.receive(&stream), Err(u32::MAX), "{what}");
        let left: &[_] = if kind == FILE { &[] } else { &[("a", "/")] };
        place.check(left, what);
    }
}

#[test]
fn b11_4_sizes() {
    let declared = |length: u64| [&header(2, FILE, length)[..], b"a\0"].concat();
    for (what, stream, error) in [
        ("2^63", declared(1 << 63), EDQUOT),
        ("2^64 - 1", declared(u64::MAX), EDQUOT),
        (
            "more declared than sent",
            [declared(100), vec![7; 99]].concat(),
            ENDED_INSIDE,
        ),
        (
            "1 TiB of zeros, of which a little comes",
            [declared(1 << 40), vec![0; 1 << 20]].concat(),
            ENDED_INSIDE,
        ),
        (
            "a name longer than what comes",
            [&header(100, FILE, 0)[..], b"abc"].concat(),
            ENDED_INSIDE,
        ),
        (
            "a name of the longest length that is none",
            header(16_384, FILE, 0).to_vec(),
            ENAMETOOLONG,
        ),
        (
            "a name of 4 GiB",
            header(u32::MAX, FILE, 0).to_vec(),
            ENAMETOOLONG,
        ),
        (
            "a link of 4 GiB",
            [
                directory("d"),
                header(4, LINK, 1 << 32).to_vec(),
                b"d/l\0".to_vec(),
            ]
            .concat(),
            ENAMETOOLONG,
        ),
    ] {
        let place = Place::new();
        assert_eq!(place.receive(&stream), Err(error), "{what}");
        assert!(
            place.landed().keys().all(|name| name == "d"),
            "{what}: {:?}",
            place.landed()
        );
    }
    // More than declared: the rest is no header that could be taken in, and the file before it is whole.
    let place = Place::new();
    let stream = [file("a", b"1"), vec![0xff; 100]].concat();
    assert_eq!(place.receive(&stream), Err(ENAMETOOLONG));
    place.check(&[("a", "1")], "more sent than declared");
    for (what, options, entries, result, expected) in [
        (
            "just within",
            ["--max-bytes", "10"],
            vec![file("a", b"12345"), file("b", b"67890")],
            Ok(()),
            &[("a", "12345"), ("b", "67890")][..],
        ),
        (
            "beyond at the last byte",
            ["--max-bytes", "10"],
            vec![file("a", b"12345"), file("b", b"678901")],
            Err(EDQUOT),
            &[("a", "12345")],
        ),
        (
            "a link counts too",
            ["--max-bytes", "4"],
            vec![directory("d"), link("d/l", "12345")],
            Err(EDQUOT),
            &[("d", "/")],
        ),
        (
            "entries",
            ["--max-entries", "2"],
            vec![file("a", b""), file("b", b""), file("c", b"")],
            Err(EDQUOT),
            &[("a", ""), ("b", "")],
        ),
    ] {
        let place = Place::new();
        let stream = [entries.concat(), END.to_vec()].concat();
        assert_eq!(finish(place.start(&options), &stream), result, "{what}");
        place.check(expected, what);
    }
}
