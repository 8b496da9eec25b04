//! Which key of a US keyboard writes a character, in QEMU's names.

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
    use super::of;

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
}
