//! The policy files on disk, read again when they have changed.
//!
//! Each call is judged by the files as they are when it comes. While one of them cannot be read or understood, the last
//! policy without a fault holds, less what the new text denies ([`Standing`]). A directory that does not exist is an
//! empty one, but one of them must exist.

use std::{
    cell::RefCell,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use casemate_policy::{Files, Reading, Standing, select};

/// Times that files are read again because they changed meanwhile.
const ATTEMPTS: usize = 5;

/// Time stamps of files are coarse: one that is younger than this may yet hide a change.
const SETTLED: Duration = Duration::from_secs(1);

/// The policy of a list of directories.
#[derive(Debug)]
pub(crate) struct Policies {
    directories: Vec<PathBuf>,
    /// Held while files are read, by whom wants them read: all others would read the same.
    cached: Mutex<Option<Cached>>,
}

/// What is said when no reading came to an end.
const RESTLESS: &str =
    "the policy files change all the time; nothing new is allowed until they rest";

#[derive(Debug)]
struct Cached {
    seen: Vec<Seen>,
    settled: bool,
    policy: Arc<Standing>,
}

/// A file or directory that was looked at, and what shows whether it has changed.
#[derive(Debug)]
struct Seen {
    path: PathBuf,
    stamp: Option<Stamp>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Policies {
    /// The policy of these directories, strongest first.
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            cached: Mutex::new(None),
        }
    }

    /// The policy as it is on disk now, with what is wrong with it. Blocks.
    pub(crate) fn current(&self) -> Arc<Standing> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = &*cached
            && cached.settled
            && is_unchanged(&cached.seen)
        {
            return Arc::clone(&cached.policy);
        }
        let before = cached.as_ref().map_or_else(
            || Standing::faulty("no policy was read yet".to_owned()),
            |cached| Standing::clone(&cached.policy),
        );
        let fresh = self.read(before);
        let policy = Arc::clone(&fresh.policy);
        *cached = Some(fresh);
        policy
    }

    /// The policy that was read last, if a look at the files shows that it is that of now. Does not wait.
    pub(crate) fn if_unchanged(&self) -> Option<Arc<Standing>> {
        let cached = self.cached.try_lock().ok()?;
        let cached = cached.as_ref()?;
        (cached.settled && is_unchanged(&cached.seen)).then(|| Arc::clone(&cached.policy))
    }

    fn read(&self, before: Standing) -> Cached {
        for _ in 0..ATTEMPTS {
            let now = SystemTime::now();
            let disk = Disk::new(&self.directories);
            let (reading, faults) = disk.reading();
            let seen = disk.seen.into_inner();
            if is_unchanged(&seen) {
                return Cached {
                    settled: is_settled(&seen, now),
                    seen,
                    policy: Arc::new(before.follow(reading, faults)),
                };
            }
        }
        Cached {
            seen: Vec::new(),
            settled: false,
            policy: Arc::new(before.follow(Reading::default(), vec![RESTLESS.to_owned()])),
        }
    }
}

fn is_unchanged(seen: &[Seen]) -> bool {
    seen.iter().all(|seen| Stamp::of(&seen.path) == seen.stamp)
}

/// Whether every stamp is old enough that a later change must show.
fn is_settled(seen: &[Seen], now: SystemTime) -> bool {
    let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else {
        return false;
    };
    let newest = seen
        .iter()
        .filter_map(|seen| seen.stamp.as_ref())
        .map(|stamp| stamp.changed.0.max(stamp.modified.0))
        .max();
    let newest = newest.and_then(|seconds| u64::try_from(seconds).ok());
    // A whole second more, because the fraction was cut off.
    newest.is_some_and(|newest| now > Duration::from_secs(newest + 1) + SETTLED)
}

/// The files as the parser asks for them; remembers each.
struct Disk<'a> {
    directories: &'a [PathBuf],
    seen: RefCell<Vec<Seen>>,
}

impl<'a> Disk<'a> {
    fn new(directories: &'a [PathBuf]) -> Self {
        Self {
            directories,
            seen: RefCell::new(Vec::new()),
        }
    }

    /// All that can be read, and what is wrong with the directories themselves.
    fn reading(&self) -> (Reading, Vec<String>) {
        let mut names = Vec::new();
        let mut faults = Vec::new();
        let mut exists = false;
        for directory in self.directories {
            names.push(match self.list(directory) {
                Ok(listed) => {
                    exists = true;
                    listed
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => {
                    faults.push(format!(
                        "{}: cannot be read ({error}); a policy directory made after the broker needs its restart",
                        directory.display()
                    ));
                    Vec::new()
                }
            });
        }
        if !exists && faults.is_empty() {
            let paths: Vec<_> = self
                .directories
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            let paths = paths.join(", ");
            faults.push(format!("none of the policy directories exists: {paths}"));
        }
        match select(&names) {
            Ok(top) => (Reading::new(&top, self), faults),
            Err(refused) => {
                faults.push(refused.to_string());
                (Reading::default(), faults)
            }
        }
    }

    fn look(&self, path: &Path) {
        self.seen.borrow_mut().push(Seen {
            path: path.to_owned(),
            stamp: Stamp::of(path),
        });
    }

    /// Names of the regular files and of links to such.
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.look(path);
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A link that leads nowhere is listed too: it must not go unseen.
            let is_file = fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file());
            if is_file {
                // A name that is not text is refused with the others that nobody can order.
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn path(&self, directory: usize, path: &str) -> PathBuf {
        match self.directories.get(directory) {
            Some(directory) => directory.join(path),
            None => PathBuf::from(path),
        }
    }
}

impl Files for Disk<'_> {
    fn text(&self, directory: usize, path: &str) -> Result<String, String> {
        let path = self.path(directory, path);
        self.look(&path);
        let is_file = fs::metadata(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?
            .is_file();
        // Anything else, such as a pipe, could keep every call waiting.
        if !is_file {
            return Err(format!("{} is not a file", path.display()));
        }
        fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    fn names(&self, directory: usize, path: &str) -> Result<Vec<String>, String> {
        let path = self.path(directory, path);
        self.list(&path)
            .map_err(|error| format!("cannot list {}: {error}", path.display()))
    }

    fn display(&self, directory: usize, path: &str) -> String {
        self.path(directory, path).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen_and_faults_deny() {
        let dir = tempfile::tempdir().unwrap();
        let (own, shipped) = (dir.path().join("own"), dir.path().join("shipped"));
        let policies = Policies::new(vec![own.clone(), shipped.clone()]);
        let rules = || {
            let policy = policies.current();
            assert_eq!(policy.faults(), [] as [String; 0]);
            policy.good().map(|policy| policy.rules.len())
        };
        let error = || policies.current().faults().join("\n");
        let kept = || policies.current().good().map(|policy| policy.rules.len());
        assert!(error().contains("none of the policy directories exists"));

        fs::create_dir(&shipped).unwrap();
        fs::write(
            shipped.join("90-default.policy"),
            "* * @anyvm @anyvm deny\n",
        )
        .unwrap();
        assert_eq!(rules(), Some(1));

        fs::create_dir(&own).unwrap();
        fs::write(own.join("10-own.policy"), "s * a b allow\n!include inc/x\n").unwrap();
        assert!(error().contains("10-own.policy:2"), "{}", error());
        assert_eq!(kept(), Some(1), "the last good policy holds");
        fs::create_dir(own.join("inc")).unwrap();
        fs::write(own.join("inc/x"), "s * a c allow\n").unwrap();
        assert_eq!(rules(), Some(3));
        fs::write(own.join("inc/x"), "s * a c allow\ns * a d oops\n").unwrap();
        assert!(error().contains("inc/x:2:9: 'oops'"), "{}", error());
        fs::write(own.join("inc/x"), "").unwrap();
        assert_eq!(rules(), Some(2));

        std::os::unix::fs::symlink("nowhere", own.join("20-link.policy")).unwrap();
        assert!(error().contains("20-link.policy"), "{}", error());
        fs::remove_file(own.join("20-link.policy")).unwrap();
        assert_eq!(rules(), Some(2));
        fs::write(own.join("Bad.policy"), "").unwrap();
        assert!(error().contains("'Bad.policy'"), "{}", error());
    }
}
