//! `qubes.VMExec`: a command as the argument of a call, so that policy can judge it.

use std::{
    ffi::OsString,
    fmt::Write,
    os::unix::{ffi::OsStringExt, process::CommandExt},
    process::Command,
};

use anyhow::Context;

/// Becomes the command that `argument` encodes.
pub(crate) fn run(argument: &str) -> anyhow::Result<u8> {
    let words = decode(argument).context("the command is not encoded as qubes.VMExec wants it")?;
    let (program, arguments) = words.split_first().context("the command is empty")?;
    Err(Command::new(program).args(arguments).exec())
        .with_context(|| format!("cannot run {}", program.display()))
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
fn decode(argument: &str) -> Option<Vec<OsString>> {
    let mut words = Vec::new();
    for encoded in argument.split('+') {
        let mut word = Vec::new();
        let mut bytes = encoded.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'-' => match bytes.next()? {
                    b'-' => word.push(b'-'),
                    high => {
                        word.push(digit(high)? << 4 | digit(bytes.next()?)?);
                    }
                },
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => word.push(byte),
                _ => return None,
            }
        }
        // No argument of a program can hold a NUL.
        if word.contains(&0) {
            return None;
        }
        words.push(OsString::from_vec(word));
    }
    Some(words)
}

/// A digit as the encoding writes it: there is one way to write each byte, so that policy cannot be evaded by another.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
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
        assert_eq!(decode("-FF").unwrap(), [OsString::from_vec(vec![0xff])]);
        for bad in [
            "-", "-2", "-ZZ", "a b", "a/b", "-+1", "-2f", "-00", "a-0", "é",
        ] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }
}
