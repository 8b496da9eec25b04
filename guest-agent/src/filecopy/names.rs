//! Which names and link targets may land here.

use super::safe::RANGES;

/// Longest name in bytes, one less than what a path of the kernel holds: nothing lands that no program can name.
const MAX_PATH: usize = 4095;

/// Most components of a name: no tree that programs cannot walk.
const MAX_DEPTH: usize = 64;

/// Which characters names and targets may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Characters {
    /// Those that can be shown without harm.
    #[default]
    Safe,
    /// All, and bytes that are no text; the caller's policy allowed it.
    Any,
}

impl Characters {
    fn allow(self, bytes: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Safe => {
                str::from_utf8(bytes).is_ok_and(|text| text.chars().all(|c| c == '/' || is_safe(c)))
            }
        }
    }
}

/// A name that was checked: relative, every component plain, every character allowed, within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryName {
    bytes: Vec<u8>,
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadName {
    /// Not relative, not plain, or with unsafe characters; becomes EILSEQ.
    Unsafe,
    /// Longer or deeper than [`MAX_PATH`] and [`MAX_DEPTH`]; becomes ENAMETOOLONG.
    TooLong,
}

impl EntryName {
    /// Checks a name without NUL. Backslashes, quotes, colons and leading dashes pass: they mean nothing to a file
    /// system. How long a component may be is the file system's to say.
    pub(super) fn parse(bytes: &[u8], characters: Characters) -> Result<Self, BadName> {
        let mut components = bytes.split(|byte| *byte == b'/');
        let plain = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
        if !components.all(plain) || !characters.allow(bytes) {
            return Err(BadName::Unsafe);
        }
        let name = Self {
            bytes: bytes.to_owned(),
        };
        if bytes.len() > MAX_PATH || name.depth() > MAX_DEPTH {
            return Err(BadName::TooLong);
        }
        Ok(name)
    }

    /// The name of the directory that holds the entry; none at the top.
    pub(super) fn parent(&self) -> Option<&[u8]> {
        let slash = self.bytes.iter().rposition(|byte| *byte == b'/')?;
        self.bytes.get(..slash)
    }

    /// The last component.
    pub(super) fn base(&self) -> &[u8] {
        self.bytes
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or(&self.bytes)
    }

    /// How many components the name has.
    pub(super) fn depth(&self) -> usize {
        self.bytes.split(|byte| *byte == b'/').count()
    }
}

/// A name that every receiver takes, as near as possible to `name`: unsafe characters become `_`, the end of a long one
/// is kept, because it says what kind of file it is.
pub fn plain_name(name: &str) -> String {
    /// Longest component that file systems take, in bytes.
    const MAX: usize = 255;
    let safe: Vec<char> = name
        .chars()
        .map(|c| if is_safe(c) && c != '/' { c } else { '_' })
        .collect();
    let mut length = 0;
    let kept = safe.iter().rev().take_while(|c| {
        length += c.len_utf8();
        length <= MAX
    });
    let mut kept: Vec<char> = kept.copied().collect();
    kept.reverse();
    match kept.into_iter().collect::<String>() {
        name if matches!(name.as_str(), "" | "." | "..") => "file".to_owned(),
        name => name,
    }
}

/// Why a link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadLink {
    /// It would lead out of what is being copied; becomes ENOLINK.
    Escapes,
    /// Its target has an unsafe character; becomes EILSEQ.
    Unsafe,
}

/// Checks a link at `name`: no link at the top, relative, no more leading `..` than there are directories to leave
/// below the top one, and none after a plain component.
pub(super) fn check_link(
    name: &EntryName,
    target: &[u8],
    characters: Characters,
) -> Result<(), BadLink> {
    if target.is_empty() || target.starts_with(b"/") {
        return Err(BadLink::Escapes);
    }
    if !characters.allow(target) {
        return Err(BadLink::Unsafe);
    }
    let Some(may_leave) = name.depth().checked_sub(2) else {
        return Err(BadLink::Escapes);
    };
    let mut left = 0;
    let mut entered = false;
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if entered || left == may_leave => return Err(BadLink::Escapes),
            b".." => left += 1,
            _ => entered = true,
        }
    }
    Ok(())
}

/// Whether a character may be shown: it neither moves anything on a screen nor hides.
pub(super) fn is_safe(c: char) -> bool {
    let point = u32::from(c);
    if point < 0x7f {
        return point >= 0x20;
    }
    let after = RANGES.partition_point(|(first, _)| *first <= point);
    after
        .checked_sub(1)
        .and_then(|index| RANGES.get(index))
        .is_some_and(|(_, last)| point <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, ok) in [
            (&b"report.pdf"[..], true),
            (b"dir/sub/file", true),
            (b"-rf", true),
            (b"a'\"b\\c:*?", true),
            ("Übung 漢字".as_bytes(), true),
            (b"", false),
            (b".", false),
            (b"..", false),
            (b"/abs", false),
            (b"a//b", false),
            (b"a/../b", false),
            (b"./a", false),
            (b"a/", false),
            (b"a\nb", false),
            (b"a\x1b[31m", false),
            (b"a\x7f", false),
            (b"\xff\xfe", false),
            ("a\u{a0}b".as_bytes(), false),
            ("a\u{202e}b".as_bytes(), false),
            ("a\u{301}".as_bytes(), false),
            ("a\u{200d}".as_bytes(), false),
            ("\u{e000}".as_bytes(), false),
            ("\u{feff}a".as_bytes(), false),
        ] {
            assert_eq!(
                EntryName::parse(name, Characters::Safe).is_ok(),
                ok,
                "{:?}",
                String::from_utf8_lossy(name)
            );
        }
    }

    #[test]
    fn links() {
        for (name, target, expected) in [
            ("x/l", "file", Ok(())),
            ("x/l", "./b", Ok(())),
            ("x/l", "b//c", Ok(())),
            ("x/y/l", "../b", Ok(())),
            ("x/l", "..", Err(BadLink::Escapes)),
            ("x/y/l", "../../b", Err(BadLink::Escapes)),
            ("x/y/l", "a/../b", Err(BadLink::Escapes)),
            ("l", "file", Err(BadLink::Escapes)),
            ("x/l", "/etc/passwd", Err(BadLink::Escapes)),
            ("x/l", "", Err(BadLink::Escapes)),
            ("x/l", "a\u{202e}", Err(BadLink::Unsafe)),
        ] {
            let name = EntryName::parse(name.as_bytes(), Characters::Safe).unwrap();
            assert_eq!(
                check_link(&name, target.as_bytes(), Characters::Safe),
                expected,
                "{name:?} -> {target}"
            );
        }
    }

    #[test]
    fn components() {
        let name = EntryName::parse(b"a/b/c", Characters::Safe).unwrap();
        assert_eq!(
            (name.parent(), name.base(), name.depth()),
            (Some(&b"a/b"[..]), &b"c"[..], 3)
        );
        let top = EntryName::parse(b"c", Characters::Safe).unwrap();
        assert_eq!((top.parent(), top.base()), (None, &b"c"[..]));
    }

    #[test]
    fn any_characters_are_still_a_plain_path() {
        for (name, expected) in [
            (&b"a\xff\n\x1b"[..], Ok(())),
            ("a\u{202e}b/c".as_bytes(), Ok(())),
            (b"a/../b", Err(BadName::Unsafe)),
            (b"/a", Err(BadName::Unsafe)),
            (b"", Err(BadName::Unsafe)),
        ] {
            let parsed = EntryName::parse(name, Characters::Any).map(|_| ());
            assert_eq!(parsed, expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_are_made_plain() {
        for (name, plain) in [
            ("report.pdf", "report.pdf"),
            ("Über 漢.txt", "Über 漢.txt"),
            ("a\u{202e}fdp.exe", "a_fdp.exe"),
            ("a/b\n", "a_b_"),
            ("..", "file"),
            ("", "file"),
        ] {
            assert_eq!(plain_name(name), plain);
        }
        let long = plain_name(&("漢".repeat(200) + ".txt"));
        assert!(long.len() <= 255 && long.len() > 250 && long.ends_with(".txt"));
    }

    #[test]
    fn bounds() {
        let parse = |name: String| EntryName::parse(name.as_bytes(), Characters::Safe).map(|_| ());
        let deep = |depth: usize| vec!["d"; depth].join("/");
        assert_eq!(parse(deep(MAX_DEPTH)), Ok(()));
        assert_eq!(parse(deep(MAX_DEPTH + 1)), Err(BadName::TooLong));
        assert_eq!(parse("a".repeat(MAX_PATH)), Ok(()));
        assert_eq!(parse("a".repeat(MAX_PATH + 1)), Err(BadName::TooLong));
        assert_eq!(parse("a/".repeat(100)), Err(BadName::Unsafe));
    }
}
