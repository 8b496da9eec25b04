//! Words to one line and back again, for the two ways in which a command reaches a VM.

/// One line that a POSIX shell splits into exactly these words.
pub(crate) fn quote(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quote_word(word)).collect();
    quoted.join(" ")
}

fn quote_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The argument of a `qubes.VMExec` call: words joined by `+`, everything but letters, digits, `.` and `_` escaped.
pub(crate) fn encode(words: &[String]) -> String {
    let encoded: Vec<String> = words
        .iter()
        .map(|word| word.bytes().map(encode_byte).collect())
        .collect();
    encoded.join("+")
}

fn encode_byte(byte: u8) -> String {
    match byte {
        b'-' => "--".to_owned(),
        b'.' | b'_' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("-{byte:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_shell_reads_what_was_meant() {
        for case in [
            &["uname", "-a"][..],
            &[
                "echo", "a b", "", "it's", "$HOME", "`x`", "\"", "\\", "*", "a\nb", "~", "x=y",
            ],
        ] {
            let line = format!("printf '%s\\0' {}", quote(&words(case)));
            let output = std::process::Command::new("sh")
                .args(["-c", &line])
                .output()
                .unwrap();
            let expected: String = case.iter().map(|word| format!("{word}\0")).collect();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
        assert_eq!(quote(&words(&["uname", "-a"])), "uname -a");
    }

    #[test]
    fn arguments_of_calls_hold_only_what_services_may_be_called_with() {
        assert_eq!(
            encode(&words(&["/bin/ls", "-l", "a b"])),
            "-2Fbin-2Fls+--l+a-20b"
        );
        assert_eq!(encode(&words(&["ü"])), "-C3-BC");
    }
}
