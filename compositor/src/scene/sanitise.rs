//! Untrusted text to text that may stand beside the host's own: an allow-list of scalars, everything else is `_`.
//!
//! What passes has one left-to-right glyph each, so that no text can turn, cover or crawl out of its field.

/// Most scalars of a title that are shown.
const MAX_SHOWN: usize = 128;

/// A title as it may be drawn.
pub(crate) fn title(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN)
        .map(|c| if allowed(c) { c } else { '_' })
        .collect()
}

fn allowed(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // Latin with its accents as single scalars, without the soft hyphen.
        '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{24f}' => true,
        // Greek and Cyrillic letters.
        '\u{386}' | '\u{388}'..='\u{3ff}' | '\u{400}'..='\u{481}' | '\u{48a}'..='\u{4ff}' => {
            c.is_alphabetic()
        }
        // Dashes, quotation marks, bullet, ellipsis, angle quotes, euro.
        '\u{2013}'
        | '\u{2014}'
        | '\u{2018}'..='\u{201e}'
        | '\u{2022}'
        | '\u{2026}'
        | '\u{2039}'
        | '\u{203a}'
        | '\u{20ac}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allow_list_passes() {
        for (text, shown) in [
            ("report.pdf", "report.pdf"),
            ("Grüße – “ok” …", "Grüße – “ok” …"),
            ("Привет", "Привет"),
            ("a\0b\nc\x1b[31m", "a_b_c_[31m"),
            ("\u{202e}evil\u{2066}", "_evil_"),
            ("zero\u{200b}width", "zero_width"),
            ("e\u{301}", "e_"),
            ("\u{85}\u{9b}", "__"),
            ("\u{e000}\u{e0041}\u{1f600}", "___"),
            ("שלום", "____"),
            ("\u{ad}", "_"),
        ] {
            assert_eq!(title(text), shown);
        }
        assert_eq!(title(&"x".repeat(129)).chars().count(), 128);
    }
}
