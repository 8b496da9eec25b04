//! Which key of a US keyboard writes a character, in QEMU's names, and Linux's codes of those keys.

/// Keys that write a character, alone and with shift.
const SYMBOLS: [(char, char, &str); 22] = [
    ('1', '!', "1"),
    ('2', '@', "2"),
    ('3', '#', "3"),
    ('4', '$', "4"),
    ('5', '%', "5"),
    ('6', '^', "6"),
    ('7', '&', "7"),
    ('8', '*', "8"),
    ('9', '(', "9"),
    ('0', ')', "0"),
    ('-', '_', "minus"),
    ('=', '+', "equal"),
    ('[', '{', "bracket_left"),
    (']', '}', "bracket_right"),
    ('\\', '|', "backslash"),
    (';', ':', "semicolon"),
    ('\'', '"', "apostrophe"),
    ('`', '~', "grave_accent"),
    (',', '<', "comma"),
    ('.', '>', "dot"),
    ('/', '?', "slash"),
    (' ', ' ', "spc"),
];

/// Keys in the order of Linux's input codes, each row with the code of its first.
const ROWS: [(u16, &[&str]); 8] = [
    (
        1,
        &[
            "esc",
            "1",
            "2",
            "3",
            "4",
            "5",
            "6",
            "7",
            "8",
            "9",
            "0",
            "minus",
            "equal",
            "backspace",
            "tab",
        ],
    ),
    (
        16,
        &[
            "q",
            "w",
            "e",
            "r",
            "t",
            "y",
            "u",
            "i",
            "o",
            "p",
            "bracket_left",
            "bracket_right",
            "ret",
            "ctrl",
        ],
    ),
    (
        30,
        &[
            "a",
            "s",
            "d",
            "f",
            "g",
            "h",
            "j",
            "k",
            "l",
            "semicolon",
            "apostrophe",
            "grave_accent",
            "shift",
            "backslash",
        ],
    ),
    (
        44,
        &["z", "x", "c", "v", "b", "n", "m", "comma", "dot", "slash"],
    ),
    (56, &["alt", "spc"]),
    (103, &["up"]),
    (105, &["left", "right"]),
    (108, &["down"]),
];

/// Linux's code of a key.
pub(super) fn code(name: &str) -> Option<u16> {
    ROWS.iter().find_map(|(first, names)| {
        let place = names.iter().position(|known| *known == name)?;
        Some(first + u16::try_from(place).ok()?)
    })
}

/// The key and whether shift is held with it.
pub(super) fn of(character: char) -> Option<(String, bool)> {
    match character {
        'a'..='z' => Some((character.to_string(), false)),
        'A'..='Z' => Some((character.to_ascii_lowercase().to_string(), true)),
        '\n' => Some(("ret".to_owned(), false)),
        '\t' => Some(("tab".to_owned(), false)),
        _ => SYMBOLS
            .iter()
            .find(|(plain, shifted, _)| [*plain, *shifted].contains(&character))
            .map(|(plain, _, name)| ((*name).to_owned(), *plain != character)),
    }
}

#[cfg(test)]
mod tests {
    use super::{code, of};

    #[test]
    fn characters_have_their_keys() {
        let table = [
            ('a', "a", false),
            ('Q', "q", true),
            ('~', "grave_accent", true),
            ('/', "slash", false),
        ];
        for (character, key, shifted) in table {
            assert_eq!(of(character), Some((key.to_owned(), shifted)));
        }
        assert_eq!(of('ü'), None);
    }

    #[test]
    fn every_key_that_writes_has_its_code() {
        for character in (' '..='~').chain(['\n', '\t']) {
            let (name, _) = of(character).unwrap();
            assert!(code(&name).is_some(), "{name}");
        }
        let table = [
            ("p", 25),
            ("ctrl", 29),
            ("backslash", 43),
            ("slash", 53),
            ("spc", 57),
            ("right", 106),
            ("down", 108),
        ];
        for (name, number) in table {
            assert_eq!(code(name), Some(number), "{name}");
        }
        assert_eq!(code("hyper"), None);
    }
}
