//! One file as a file copy stream (`qubes.Filecopy`): header, name, data, end marker; and the receiver's answer.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
};

/// Length of an entry's header; the end marker is as many zeros.
const HEADER: usize = 32;

/// Length of the fixed part of the receiver's answer.
const ANSWER: usize = 16;

/// Sends `file` under `name`.
pub(crate) fn send(file: &mut File, name: &str, output: &mut impl Write) -> io::Result<()> {
    let metadata = file.metadata()?;
    output.write_all(&header(name, &metadata))?;
    output.write_all(name.as_bytes())?;
    output.write_all(&[0])?;
    let sent = io::copy(&mut file.take(metadata.len()), output)?;
    if sent != metadata.len() {
        return Err(io::Error::other(
            "the file became shorter while it was read",
        ));
    }
    output.write_all(&[0; HEADER])
}

fn header(name: &str, metadata: &Metadata) -> Vec<u8> {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    let nanoseconds = |time: i64| u32::try_from(time).unwrap_or(0);
    let length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    let mut header = Vec::with_capacity(HEADER);
    header.extend(length.to_le_bytes());
    header.extend(metadata.mode().to_le_bytes());
    header.extend(metadata.len().to_le_bytes());
    header.extend(seconds(metadata.atime()).to_le_bytes());
    header.extend(nanoseconds(metadata.atime_nsec()).to_le_bytes());
    header.extend(seconds(metadata.mtime()).to_le_bytes());
    header.extend(nanoseconds(metadata.mtime_nsec()).to_le_bytes());
    header
}

/// A name that every receiver takes: printable ASCII, the rest as `_`; the ending, which chooses the viewer, survives.
pub(crate) fn safe_name(name: &str) -> String {
    /// Longest name that file systems take, in bytes.
    const MAX: usize = 255;
    let safe: String = name
        .chars()
        .map(|c| {
            if (' '..='~').contains(&c) && c != '/' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let excess = safe.len().saturating_sub(MAX);
    let safe = safe.get(excess..).unwrap_or_default().trim_end();
    match safe {
        "" | "." | ".." => "file".to_owned(),
        _ => safe.to_owned(),
    }
}

/// What the receiver said of the copy: nothing yet, done, or an error number.
#[derive(Debug, Default)]
pub(crate) struct Answer(Vec<u8>);

impl Answer {
    /// Takes output of the receiver; only the answer's beginning is kept.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = ANSWER.saturating_sub(self.0.len());
        self.0.extend(bytes.iter().take(room));
    }

    /// Why the copy was refused.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        let code = self.0.first_chunk().map(|code| u32::from_le_bytes(*code))?;
        match i32::try_from(code) {
            Ok(0) => None,
            Ok(code @ 1..4096) => Some(io::Error::from_raw_os_error(code)),
            _ => Some(io::Error::other("it gives no reason")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_entry_and_an_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut stream = Vec::new();
        send(&mut file, "a.pdf", &mut stream).unwrap();
        assert_eq!(&stream[..4], 6u32.to_le_bytes());
        assert_eq!(&stream[8..16], 5u64.to_le_bytes());
        assert_eq!(&stream[HEADER..HEADER + 11], b"a.pdf\0hello");
        assert_eq!(&stream[HEADER + 11..], [0; HEADER]);
    }

    #[test]
    fn names_are_made_safe() {
        for (name, safe) in [
            ("report.pdf", "report.pdf"),
            ("Ünïcode\n.pdf", "_n_code_.pdf"),
            ("..", "file"),
            ("", "file"),
            ("a b", "a b"),
        ] {
            assert_eq!(safe_name(name), safe);
        }
        let long = safe_name(&("x".repeat(300) + ".pdf"));
        assert_eq!((long.len(), long.ends_with(".pdf")), (255, true));
    }

    #[test]
    fn answers() {
        let answer = |bytes: &[u8]| {
            let mut answer = Answer::default();
            answer.push(bytes);
            answer.refusal().map(|error| error.raw_os_error())
        };
        assert_eq!(answer(&[]), None);
        assert_eq!(answer(&[0; 16]), None);
        assert_eq!(answer(&[17, 0, 0, 0, 0, 0, 0, 0]), Some(Some(17)));
        assert_eq!(answer(&[0xff; 64]), Some(None));
    }
}
