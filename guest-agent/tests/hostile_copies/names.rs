//! B11-1 names, B11-2 types.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Stdio},
};

use crate::{
    place::{
        EEXIST, EILSEQ, EINVAL, ENAMETOOLONG, ENOENT, ENOLINK, ENOTDIR, EXDEV, Place, finish,
        in_namespace,
    },
    support::copies::{DIRECTORY, END, FILE, LINK, directory, entry, file, link},
};

#[test]
fn b11_1_names() {
    let deep = |depth: usize| vec!["d"; depth].join("/");
    let long = "n".repeat(256);
    let path = format!("{}/x", vec!["p".repeat(255); 16].join("/"));
    assert_eq!(path.len(), 4097);
    let refused: Vec<(&[u8], u32)> = vec![
        (b"..", EILSEQ),
        (b".", EILSEQ),
        (b"", EILSEQ),
        (b"\0", EILSEQ),
        (b"a/../../b", EILSEQ),
        (b"../b", EILSEQ),
        (b"/abs", EILSEQ),
        (b"a//b", EILSEQ),
        (b"./a", EILSEQ),
        (b"a/", EILSEQ),
        (b"a/.", EILSEQ),
        (long.as_bytes(), ENAMETOOLONG),
        (path.as_bytes(), ENAMETOOLONG),
        (b"caf\xe9", EILSEQ),
        (b"\xed\xa0\x80", EILSEQ),
        (b"a\nb", EILSEQ),
        (b"a\x1b[2J", EILSEQ),
        (b"a\x7f", EILSEQ),
        ("a\u{202e}fdp".as_bytes(), EILSEQ),
        ("a\u{200b}b".as_bytes(), EILSEQ),
        ("a\u{2028}b".as_bytes(), EILSEQ),
        ("e\u{301}".as_bytes(), EILSEQ),
    ];
    for (name, error) in refused {
        let what = name.escape_ascii().to_string();
        for mode in [FILE, DIRECTORY, LINK] {
            let place = Place::new();
            let stream = [entry(name, mode, b"x"), END.to_vec()].concat();
            // A directory's name errors come with the wrong sign, as the reference's.
            let error = match (mode, error) {
                (DIRECTORY, EILSEQ) => EILSEQ.wrapping_neg(),
                (LINK, ENAMETOOLONG) if name == long.as_bytes() => ENOLINK,
                _ => error,
            };
            assert_eq!(place.receive(&stream), Err(error), "{what} {mode:o}");
            place.check(&[], &what);
        }
    }
    let place = Place::new();
    let too_deep: Vec<u8> = (1..=65).flat_map(|depth| directory(&deep(depth))).collect();
    assert_eq!(place.receive(&too_deep), Err(ENAMETOOLONG));
    assert_eq!(place.landed().len(), 64);
    for name in [
        "-rf",
        "trailing ",
        "dot.",
        "...",
        "a\\b",
        "a'\"`$(b)",
        "C:*?",
        ".bashrc",
        "Ünï 漢字",
    ] {
        let place = Place::new();
        let stream = [file(name, b"1"), END.to_vec()].concat();
        assert_eq!(place.receive(&stream), Ok(()), "{name}");
        place.check(&[(name, "1")], name);
    }
    let place = Place::new();
    let stream = [
        directory(".config"),
        directory(".config/autostart"),
        file(".config/autostart/x.desktop", b"1"),
        entry(b"cut\0off", FILE, b"2"),
        END.to_vec(),
    ];
    assert_eq!(place.receive(&stream.concat()), Ok(()));
    place.check(
        &[
            (".config", "/"),
            (".config/autostart", "/"),
            (".config/autostart/x.desktop", "1"),
            ("cut", "2"),
        ],
        "dot files stay where they are received",
    );
}

#[test]
fn b11_2_types() {
    type Case<'a> = (
        &'a str,
        Vec<Vec<u8>>,
        Result<(), u32>,
        &'a [(&'a str, &'a str)],
    );
    let special = |kind: u32| vec![entry(b"a", kind | 0o644, b"")];
    let in_d = |more: Vec<Vec<u8>>| [vec![directory("d")], more].concat();
    let cases: Vec<Case<'_>> = vec![
        ("fifo", special(0o010_000), Err(EINVAL), &[]),
        ("character device", special(0o020_000), Err(EINVAL), &[]),
        ("block device", special(0o060_000), Err(EINVAL), &[]),
        ("socket", special(0o140_000), Err(EINVAL), &[]),
        ("no type", special(0), Err(EINVAL), &[]),
        ("every type", special(0o170_000), Err(EINVAL), &[]),
        ("top link", vec![link("l", "d")], Err(ENOLINK), &[]),
        (
            "absolute link",
            in_d(vec![link("d/l", "/etc/passwd")]),
            Err(ENOLINK),
            &[("d", "/")],
        ),
        (
            "link out",
            in_d(vec![link("d/l", "../outside")]),
            Err(ENOLINK),
            &[("d", "/")],
        ),
        (
            "link out behind a plain component",
            in_d(vec![link("d/l", "e/../../outside")]),
            Err(ENOLINK),
            &[("d", "/")],
        ),
        (
            "link to nothing",
            in_d(vec![link("d/l", "")]),
            Err(ENOLINK),
            &[("d", "/")],
        ),
        (
            "link within",
            in_d(vec![
                directory("d/e"),
                link("d/e/l", "../f"),
                file("d/f", b"1"),
            ]),
            Ok(()),
            &[("d", "/"), ("d/e", "/"), ("d/e/l", "-> ../f"), ("d/f", "1")],
        ),
        (
            "file through a link",
            in_d(vec![
                directory("d/e"),
                link("d/l", "e"),
                file("d/l/f", b"1"),
            ]),
            Err(ENOTDIR),
            &[("d", "/"), ("d/e", "/"), ("d/l", "-> e")],
        ),
        (
            "link through a link",
            in_d(vec![directory("d/e"), link("d/l", "e"), link("d/l/m", "x")]),
            Err(ENOTDIR),
            &[("d", "/"), ("d/e", "/"), ("d/l", "-> e")],
        ),
        (
            "directory over a link",
            in_d(vec![directory("d/e"), link("d/l", "e"), directory("d/l")]),
            Err(ENOTDIR),
            &[("d", "/"), ("d/e", "/"), ("d/l", "-> e")],
        ),
        (
            "file over a link",
            in_d(vec![link("d/l", "f"), file("d/l", b"1")]),
            Err(EEXIST),
            &[("d", "/"), ("d/l", "-> f")],
        ),
        (
            "link over a file",
            in_d(vec![file("d/f", b"1"), link("d/f", "x")]),
            Err(EEXIST),
            &[("d", "/"), ("d/f", "1")],
        ),
        (
            "file, then directory",
            vec![file("a", b"1"), directory("a")],
            Err(ENOTDIR),
            &[("a", "1")],
        ),
        (
            "file, then something in it",
            vec![file("a", b"1"), file("a/b", b"2")],
            Err(ENOTDIR),
            &[("a", "1")],
        ),
        (
            "directory, then file",
            vec![directory("a"), file("a", b"1")],
            Err(EEXIST),
            &[("a", "/")],
        ),
        (
            "the same file twice",
            vec![file("a", b"1"), file("a", b"2")],
            Err(EEXIST),
            &[("a", "1")],
        ),
        (
            "twins but for case",
            vec![file("a", b"1"), file("A", b"2")],
            Ok(()),
            &[("A", "2"), ("a", "1")],
        ),
        (
            "no such directory",
            vec![file("d/f", b"1")],
            Err(ENOENT),
            &[],
        ),
    ];
    for (what, entries, result, expected) in cases {
        let place = Place::new();
        let stream = [entries.concat(), END.to_vec()].concat();
        assert_eq!(place.receive(&stream), result, "{what}");
        place.check(expected, what);
    }
}

#[test]
fn b11_2_what_was_planted_before() {
    for (name, error) in [
        ("way/x", ENOTDIR),
        ("way", EEXIST),
        ("loop/x", ENOTDIR),
        ("pipe", EEXIST),
        ("pipe/x", ENOTDIR),
        ("dangling", EEXIST),
    ] {
        let place = Place::new();
        symlink("../outside", place.root().join("way")).unwrap();
        symlink("loop", place.root().join("loop")).unwrap();
        symlink("../new", place.root().join("dangling")).unwrap();
        let pipe = place.root().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let planted = [
            ("dangling", "-> ../new"),
            ("loop", "-> loop"),
            ("pipe", "|"),
            ("way", "-> ../outside"),
        ];
        let stream = [file(name, b"x"), END.to_vec()].concat();
        assert_eq!(place.receive(&stream), Err(error), "{name}");
        place.check(&planted, name);
        if !name.contains('/') {
            let stream = [directory(name), END.to_vec()].concat();
            assert_eq!(place.receive(&stream), Err(ENOTDIR), "{name} as directory");
            place.check(&planted, name);
        }
    }
}

#[test]
fn b11_2_other_file_systems_are_not_entered() {
    let place = Place::new();
    fs::create_dir(place.root().join("m")).unwrap();
    let script = r#"mount -t tmpfs none "$1/in/m"; "$2" service qubes.Filecopy --incoming "$1/in" || code=$?
        [ -z "$(ls "$1/in/m")" ] || exit 77; exit $code"#;
    let child = in_namespace(&place, script);
    let stream = [file("m/x", b"1"), END.to_vec()].concat();
    assert_eq!(finish(child, &stream), Err(EXDEV));
    let child = in_namespace(&place, script);
    let stream = [directory("m"), END.to_vec()].concat();
    assert_eq!(finish(child, &stream), Err(EXDEV));
    place.check(&[("m", "/")], "a mount on the way");
}

#[test]
fn names_of_any_characters_where_policy_allowed_them() {
    let place = Place::new();
    let receive = |argument: &str, stream: &[u8]| {
        let child = Command::new(env!("CARGO_BIN_EXE_casemate-agent"))
            .args(["service", "qubes.Filecopy", "--incoming"])
            .arg(place.root())
            .env("QREXEC_SERVICE_ARGUMENT", argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        finish(child, stream)
    };
    let stream = |name: &str| [file(name, b"1"), END.to_vec()].concat();
    assert_eq!(receive("", &stream("a\u{202e}b\n")), Err(EILSEQ));
    assert_eq!(receive("allow-all-names", &stream("a\u{202e}b\n")), Ok(()));
    assert_eq!(receive("allow-all-names", &stream("../b")), Err(EILSEQ));
    assert_eq!(receive("something", &stream("c")), Err(u32::MAX));
    place.check(&[("a\u{202e}b\n", "1")], "any characters");
    let mode = fs::metadata(place.root().join("a\u{202e}b\n"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o644);
}
