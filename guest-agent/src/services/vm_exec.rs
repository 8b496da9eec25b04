//! `qubes.VMExec`: a command as the argument of a call, so that policy can judge it.

use std::{fmt::Write, os::unix::process::CommandExt, process::Command};

use anyhow::Context;

/// Becomes the command that `argument` encodes.
pub(crate) fn run(argument: &str) -> anyhow::Result<u8> {
    let words = decode(argument).context("the command is not encoded as qubes.VMExec wants it")?;
    let (program, arguments) = words.split_first().context("the command is empty")?;
    Err(Command::new(program).args(arguments).exec())
        .with_context(|| format!("cannot run {program}"))
}

/// Words joined by `+`; letters, digits, `.` and `_` as they are, `-` doubled, every other byte as `-XX`.
pub(crate) fn encode(words: &[&str]) -> String {
    let mut encoded = String::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            encoded.push('+');
        }
        for byte in word.bytes() {
            match byte {
                b'-' => encoded.push_str("--"),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => {
                    encoded.push(char::from(byte));
                }
                other => {
                    let _ = write!(encoded, "-{other:02X}");
                }
            }
        }
    }
    encoded
}

/// The words of an encoded command.
fn decode(argument: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for encoded in argument.split('+') {
        let mut word = Vec::new();
        let mut bytes = encoded.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'-' => match bytes.next()? {
                    b'-' => word.push(b'-'),
                    high => {
                        let digits = [high, bytes.next()?];
                        word.push(u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?);
                    }
                },
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => word.push(byte),
                _ => return None,
            }
        }
        words.push(String::from_utf8(word).ok()?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_the_encoding() {
        assert_eq!(encode(&["/bin/ls", "-l"]), "-2Fbin-2Fls+--l");
        for words in [
            &["sh", "-c", "echo 'a b' > \"ü\"; exit 3"][..],
            &["x", ""],
            &["--"],
        ] {
            assert_eq!(decode(&encode(words)).unwrap(), words);
        }
        for bad in ["-", "-2", "-ZZ", "a b", "a/b", "-+1"] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }
}
