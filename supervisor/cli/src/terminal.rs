//! What a VM prints, made harmless for a terminal: no escape sequences, no invisible or direction-changing characters.

/// Makes a stream of bytes printable, also when it is cut within a character.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// The beginning of a character whose rest has not come yet; at most 3 bytes.
    rest: Vec<u8>,
}

impl Filter {
    /// The printable form of what can be told so far.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.extend(chunk.valid().chars().map(harmless));
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && begins_character(invalid) {
                self.rest = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push('_');
            }
        }
        text
    }
}

/// A text on one line, printable.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(harmless)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Whether more bytes could make a character of these.
fn begins_character(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

fn harmless(c: char) -> char {
    let invisible = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    match c {
        '\n' | '\t' | '\r' => c,
        _ if c.is_control() || invisible => '_',
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        for (bytes, text) in [
            (&b"plain\r\n\ttext"[..], "plain\r\n\ttext"),
            (b"\x1b[31mred\x07\x08", "_[31mred__"),
            ("\u{9b}31m".as_bytes(), "_31m"),
            ("a\u{202e}b\u{200b}c".as_bytes(), "a_b_c"),
            ("grün 漢".as_bytes(), "grün 漢"),
            (b"a\xff\xfeb", "a__b"),
        ] {
            assert_eq!(Filter::default().push(bytes), text);
        }
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let bytes = "grün 漢 🙂 \u{1b}".as_bytes();
        for cut in 0..=bytes.len() {
            let mut filter = Filter::default();
            let text = filter.push(&bytes[..cut]) + &filter.push(&bytes[cut..]);
            assert_eq!(text, "grün 漢 🙂 _");
        }
        let mut filter = Filter::default();
        assert_eq!(filter.push(b"\xe6") + &filter.push(b"x"), "_x");
    }
}
