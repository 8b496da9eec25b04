//! Which names and link targets may land here.

use super::safe::RANGES;

/// A name that was checked: relative, every component plain, every character safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryName {
    text: String,
}

/// A name that is refused; becomes EILSEQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnsafeName;

impl EntryName {
    /// Checks a name. Backslashes, quotes, colons and leading dashes pass: they mean nothing to a file system.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, UnsafeName> {
        let text = str::from_utf8(bytes).map_err(|_| UnsafeName)?;
        let plain = |component: &str| !matches!(component, "" | "." | "..");
        if !text.split('/').all(plain) || !text.chars().all(|c| c == '/' || is_safe(c)) {
            return Err(UnsafeName);
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// The directories above, from the top.
    pub(super) fn parents(&self) -> impl Iterator<Item = &str> {
        self.text
            .rsplit_once('/')
            .map(|(parents, _)| parents)
            .into_iter()
            .flat_map(|parents| parents.split('/'))
    }

    /// The last component.
    pub(super) fn base(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or(&self.text)
    }

    /// How many components the name has.
    pub(super) fn depth(&self) -> usize {
        self.text.split('/').count()
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
pub(super) fn check_link(name: &EntryName, target: &[u8]) -> Result<(), BadLink> {
    let text = str::from_utf8(target).map_err(|_| BadLink::Unsafe)?;
    if text.is_empty() || text.starts_with('/') {
        return Err(BadLink::Escapes);
    }
    if !text.chars().all(|c| c == '/' || is_safe(c)) {
        return Err(BadLink::Unsafe);
    }
    let Some(may_leave) = name.depth().checked_sub(2) else {
        return Err(BadLink::Escapes);
    };
    let mut left = 0;
    let mut entered = false;
    for component in text.split('/') {
        match component {
            "" | "." => {}
            ".." if entered || left == may_leave => return Err(BadLink::Escapes),
            ".." => left += 1,
            _ => entered = true,
        }
    }
    Ok(())
}

fn is_safe(c: char) -> bool {
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
                EntryName::parse(name).is_ok(),
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
            let name = EntryName::parse(name.as_bytes()).unwrap();
            assert_eq!(
                check_link(&name, target.as_bytes()),
                expected,
                "{name:?} -> {target}"
            );
        }
    }

    #[test]
    fn components() {
        let name = EntryName::parse(b"a/b/c").unwrap();
        assert_eq!(
            (
                name.parents().collect::<Vec<_>>(),
                name.base(),
                name.depth()
            ),
            (vec!["a", "b"], "c", 3)
        );
        let top = EntryName::parse(b"c").unwrap();
        assert_eq!((top.parents().count(), top.base()), (0, "c"));
    }
}
