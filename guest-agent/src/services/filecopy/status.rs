//! How a copy into this VM goes, for whoever wants to show it: one small file for each copy that takes longer than a
//! moment, `$XDG_RUNTIME_DIR/casemate/incoming/PID.json`, replaced at most twice a second and gone with the copy.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use casemate_filecopy::{Pace, Received, amount, duration};
use serde_json::{Value, json};

/// Time between two notes. A copy that takes less is over before anybody looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// The note of one copy.
#[derive(Debug)]
pub(crate) struct Status {
    /// Nowhere to write it: nobody will know, and the copy goes on.
    file: Option<PathBuf>,
    source: String,
    into: String,
    begun: Instant,
    noted: Duration,
    pace: Pace,
}

fn directory() -> Option<PathBuf> {
    let runtime = env::var_os("XDG_RUNTIME_DIR")?;
    Some(Path::new(&runtime).join("casemate/incoming"))
}

impl Status {
    /// The status of a copy from the VM `source` that lands in `into`. Nothing is written yet.
    pub(crate) fn new(source: &str, into: &Path) -> Self {
        let name = format!("{}.json", std::process::id());
        Self {
            file: directory().map(|directory| directory.join(name)),
            source: source.to_owned(),
            into: into.display().to_string(),
            begun: Instant::now(),
            noted: Duration::ZERO,
            pace: Pace::default(),
        }
    }

    /// Takes note, if it is time to.
    pub(crate) fn note(&mut self, received: &Received) {
        let elapsed = self.begun.elapsed();
        if elapsed.saturating_sub(self.noted) < INTERVAL {
            return;
        }
        self.noted = elapsed;
        let text = self.text(received, elapsed);
        if let Some(file) = &self.file
            && write(file, &text).is_err()
        {
            self.file = None;
        }
    }

    fn text(&mut self, received: &Received, elapsed: Duration) -> String {
        let rate = self.pace.note(received.bytes, elapsed);
        let left = self.pace.remaining(received.left);
        json!({
            "source": self.source,
            "into": self.into,
            "bytes": received.bytes,
            "entries": received.entries,
            "bytes_per_second": rate.round(),
            "name": String::from_utf8_lossy(&received.name),
            "name_bytes_left": received.left,
            "name_seconds_left": left.map(|left| left.as_secs()),
        })
        .to_string()
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// A reader sees the former note or this one.
fn write(file: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let next = file.with_extension("next");
    fs::write(&next, text)?;
    fs::rename(next, file)
}

/// Prints the copies that are coming in, as lines for a person or as JSON lines.
pub(crate) fn list(json: bool) -> anyhow::Result<u8> {
    let directory = directory().context("XDG_RUNTIME_DIR is not set")?;
    let mut out = io::stdout().lock();
    for note in notes(&directory) {
        if json {
            writeln!(out, "{note}")?;
        } else {
            writeln!(out, "{}", sentence(&note))?;
        }
    }
    Ok(0)
}

/// The notes of processes that live; those of killed ones are removed.
fn notes(directory: &Path) -> Vec<Value> {
    let mut notes = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let alive = path
            .file_stem()
            .is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            let _ = fs::remove_file(&path);
        } else if path.extension().is_some_and(|kind| kind == "json") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            notes.extend(serde_json::from_str::<Value>(&text));
        }
    }
    notes
}

fn sentence(note: &Value) -> String {
    let number = |key: &str| note[key].as_f64().unwrap_or(0.0);
    let text = |key: &str| -> String {
        let text = note[key].as_str().unwrap_or_default();
        text.chars()
            .map(|c| if c.is_control() { '_' } else { c })
            .collect()
    };
    let left = note["name_seconds_left"].as_u64().map_or_else(
        || "stalled".to_owned(),
        |left| duration(Duration::from_secs(left)),
    );
    format!(
        "from {}: {} in {} entries, {}/s; {}: {} to come, {left}",
        text("source"),
        amount(number("bytes")),
        number("entries"),
        amount(number("bytes_per_second")),
        text("name"),
        amount(number("name_bytes_left")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut status = Status::new("work", Path::new("/in"));
        let file = dir.path().join(format!("{}.json", std::process::id()));
        status.file = Some(file.clone());
        let received = Received {
            bytes: 1_000_000,
            entries: 2,
            left: 4_000_000,
            name: b"a\x1b.iso".to_vec(),
        };
        status.note(&received);
        assert!(!file.exists(), "too early");
        status.begun -= Duration::from_secs(2);
        status.note(&received);
        fs::write(dir.path().join("4194999.json"), "{}").unwrap();
        let notes = notes(dir.path());
        assert_eq!(notes.len(), 1, "that of nobody is gone: {notes:?}");
        let note = sentence(&notes[0]);
        assert!(
            note.starts_with("from work: 1.0 MB in 2 entries, ") && note.contains("a_.iso: 4.0 MB"),
            "{note}"
        );
        drop(status);
        assert!(!file.exists(), "it is gone with the copy");
    }
}
