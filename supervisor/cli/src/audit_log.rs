//! The broker's audit log on disk, line by line, from the oldest file to the newest.
//!
//! The broker may put the file aside at any moment. So the files are opened first, newest before oldest: one that moves
//! up meanwhile is met again under its new name and known by its inode, and none is missed but the one that falls off
//! the end. One line is held at a time.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::Path,
};

use casemate_api::Decision;

/// Files beside the present one, as many as the broker keeps.
const KEPT_FILES: u32 = 4;

/// Longest line. The broker's have some hundred bytes; a longer one is somebody else's and passed over.
const MAX_LINE: u64 = 64 * 1024;

/// The decisions on disk, oldest first.
#[derive(Debug)]
pub(crate) struct AuditLog {
    /// Newest first: the next one to be read is the last.
    files: Vec<BufReader<File>>,
    line: Vec<u8>,
    /// Lines that are no decision: cut by a crash, or not the broker's.
    unreadable: u64,
}

impl AuditLog {
    /// Opens what there is in a state directory; no file at all is an empty log.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let mut seen = BTreeSet::new();
        let mut files = Vec::new();
        for number in 0..=KEPT_FILES {
            let name = match number {
                0 => "audit.jsonl".to_owned(),
                number => format!("audit.jsonl.{number}"),
            };
            let file = match File::open(state.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let metadata = file.metadata()?;
            if seen.insert((metadata.dev(), metadata.ino())) {
                files.push(BufReader::with_capacity(256 * 1024, file));
            }
        }
        Ok(Self {
            files,
            line: Vec::new(),
            unreadable: 0,
        })
    }

    /// How many lines were passed over so far.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The next decision.
    pub(crate) fn next(&mut self) -> io::Result<Option<Decision>> {
        while let Some(file) = self.files.last_mut() {
            self.line.clear();
            if !read_line(file, &mut self.line)? {
                self.files.pop();
                continue;
            }
            let line = self.line.trim_ascii();
            match serde_json::from_slice(line) {
                Ok(decision) => return Ok(Some(decision)),
                // A crash may leave an empty line behind the one that it cut.
                Err(_) if line.is_empty() => {}
                Err(_) => self.unreadable += 1,
            }
        }
        Ok(None)
    }
}

/// Reads one line without its end; `false` at the end of the file. Of a line that is too long only the head is kept.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let read = io::Read::take(&mut *file, MAX_LINE).read_until(b'\n', line)?;
    if line.last() != Some(&b'\n') && read > 0 {
        loop {
            let piece = file.fill_buf()?;
            let (length, ends) = match piece.iter().position(|byte| *byte == b'\n') {
                Some(place) => (place + 1, true),
                None => (piece.len(), piece.is_empty()),
            };
            file.consume(length);
            if ends {
                break;
            }
        }
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(time: u64) -> String {
        let decision = Decision {
            time,
            source: "work".to_owned(),
            requested: String::new(),
            target: String::new(),
            service: "s+".to_owned(),
            result: "deny".to_owned(),
            rule: String::new(),
            reason: String::new(),
        };
        serde_json::to_string(&decision).unwrap()
    }

    fn times(log: &mut AuditLog) -> Vec<u64> {
        std::iter::from_fn(|| log.next().unwrap())
            .map(|decision| decision.time)
            .collect()
    }

    #[test]
    fn all_files_are_read_oldest_first_and_what_is_no_decision_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            times(&mut AuditLog::open(dir.path()).unwrap()),
            [] as [u64; 0]
        );
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        write("audit.jsonl.5", line(1));
        write("audit.jsonl.4", format!("{}\n{}\n", line(2), line(3)));
        write(
            "audit.jsonl.2",
            format!("{}\n{{\"cut\n\n{}\n", line(4), line(5)),
        );
        let long = format!("{{\"time\":\"{}\"}}", "9".repeat(200_000));
        write("audit.jsonl.1", format!("{long}\n{}\n\u{fffd}\n", line(6)));
        // The last line may be on its way yet.
        write("audit.jsonl", format!("{}\n{}", line(7), line(8)));
        let mut log = AuditLog::open(dir.path()).unwrap();
        assert_eq!(times(&mut log), [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(log.unreadable(), 3);
    }

    #[test]
    fn a_file_that_is_put_aside_meanwhile_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("audit.jsonl"), format!("{}\n", line(1))).unwrap();
        // What a rotation between two openings looks like: the same file under both names.
        fs::hard_link(path("audit.jsonl"), path("audit.jsonl.1")).unwrap();
        fs::write(path("audit.jsonl.2"), format!("{}\n", line(0))).unwrap();
        let mut log = AuditLog::open(dir.path()).unwrap();
        fs::rename(path("audit.jsonl"), path("audit.jsonl.1")).unwrap();
        assert_eq!(times(&mut log), [0, 1]);
    }
}
