//! The record of every decision: a line of JSON in a file, and the last ones in memory.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use casemate_api::Decision;

use crate::limits::MAX_SHOWN;

/// Decisions that are kept in memory.
const REMEMBERED: usize = 1000;

/// Size at which the file is put aside as `audit.jsonl.1`, and older ones move up.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Files that are kept beside the present one: a VM that calls all the time fills five times [`MAX_FILE`], not the disk.
const KEPT_FILES: u32 = 4;

/// How a call ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allow,
    Deny,
    AskAllowed,
    AskDenied,
    Granted,
    Killed,
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::AskAllowed => "ask-allowed",
            Self::AskDenied => "ask-denied",
            Self::Granted => "granted",
            Self::Killed => "killed",
            Self::Failed => "failed",
        }
    }
}

/// What is known of a call when it is recorded.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) source: String,
    pub(crate) requested: String,
    /// Empty when the call went nowhere.
    pub(crate) target: String,
    pub(crate) service: String,
    pub(crate) outcome: Outcome,
    /// `FILE:LINE`, empty when no rule decided.
    pub(crate) rule: String,
    pub(crate) reason: String,
}

/// The log. A lock, not a task: a decision is on record before anyone acts on it.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    size: u64,
    last: VecDeque<Decision>,
}

impl Audit {
    /// Opens `audit.jsonl` in the state directory.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub(crate) fn open(state: &std::path::Path) -> io::Result<Self> {
        let path = state.join("audit.jsonl");
        let (file, size) = open(&path)?;
        Ok(Self {
            path,
            log: Mutex::new(Log {
                file,
                size,
                last: VecDeque::new(),
            }),
        })
    }

    /// Records a call.
    pub(crate) fn record(&self, entry: Entry) {
        let decision = Decision {
            time: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            source: entry.source,
            requested: entry.requested,
            target: entry.target,
            service: shown(&entry.service),
            result: entry.outcome.as_str().to_owned(),
            rule: entry.rule,
            reason: entry.reason,
        };
        tracing::info!(
            source = decision.source,
            requested = decision.requested,
            target = decision.target,
            service = decision.service,
            result = decision.result,
            rule = decision.rule,
            "call"
        );
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.write(&mut log, &decision) {
            tracing::error!(%error, path = %self.path.display(), "the audit log cannot be written");
        }
        if log.last.len() >= REMEMBERED {
            log.last.pop_front();
        }
        log.last.push_back(decision);
    }

    /// The last `limit` decisions, newest last.
    pub(crate) fn last(&self, limit: usize) -> Vec<Decision> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = log.last.len().saturating_sub(limit);
        log.last.iter().skip(skip).cloned().collect()
    }

    fn write(&self, log: &mut Log, decision: &Decision) -> io::Result<()> {
        let mut line = serde_json::to_vec(decision)?;
        line.push(b'\n');
        if log.size > MAX_FILE {
            rotate(&self.path)?;
            (log.file, log.size) = open(&self.path)?;
        }
        log.file.write_all(&line)?;
        log.size += line.len() as u64;
        Ok(())
    }
}

/// Moves every file up by one; the oldest is overwritten. Whatever is cut off in between loses at most that one.
fn rotate(path: &std::path::Path) -> io::Result<()> {
    let numbered = |number: u32| match number {
        0 => path.to_owned(),
        number => path.with_extension(format!("jsonl.{number}")),
    };
    for number in (0..KEPT_FILES).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Opens the file; a line that a crash has cut is closed, so that the next one stands for itself.
fn open(path: &std::path::Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let mut size = file.metadata()?.len();
    let mut last = [b'\n'];
    if let Some(place) = size.checked_sub(1) {
        file.read_exact_at(&mut last, place)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
        size += 1;
    }
    Ok((file, size))
}

/// A text of a VM, shortened in the middle. It is ASCII by then, so every byte is a character.
pub(crate) fn shown(text: &str) -> String {
    let half = MAX_SHOWN / 2;
    let parts = (
        text.get(..half),
        text.get(text.len().saturating_sub(half)..),
    );
    match parts {
        (Some(head), Some(tail)) if text.len() > MAX_SHOWN => format!("{head}...{tail}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_move_up_and_a_cut_line_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for number in 0..KEPT_FILES + 3 {
            fs::write(&path, number.to_string()).unwrap();
            rotate(&path).unwrap();
        }
        let kept = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(u32::try_from(kept), Ok(KEPT_FILES));
        let newest = fs::read_to_string(dir.path().join("audit.jsonl.1")).unwrap();
        assert_eq!(newest, (KEPT_FILES + 2).to_string());
        fs::write(&path, "{\"cut").unwrap();
        assert_eq!(open(&path).unwrap().1, 6);
        assert_eq!(open(&path).unwrap().1, 6);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"cut\n");
    }

    #[test]
    fn decisions_are_kept_on_disk_and_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let entry = |service: &str| Entry {
            source: "work".to_owned(),
            requested: String::new(),
            target: String::new(),
            service: service.to_owned(),
            outcome: Outcome::Deny,
            rule: "90-default.policy:7".to_owned(),
            reason: "a rule denies the call".to_owned(),
        };
        for number in 0..REMEMBERED + 5 {
            audit.record(entry(&format!("s{number}+")));
        }
        assert_eq!(audit.last(usize::MAX).len(), REMEMBERED);
        let last = audit.last(2);
        assert_eq!(last[1].service, format!("s{}+", REMEMBERED + 4));
        audit.record(entry(&format!("s+{}", "x".repeat(60_000))));
        let text = fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        let lines: Vec<Decision> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), REMEMBERED + 6);
        assert_eq!(lines[REMEMBERED + 4], last[1]);
        assert!(lines[REMEMBERED + 5].service.len() <= MAX_SHOWN + 3);
    }
}
