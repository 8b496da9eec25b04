//! The policy files as the parser asks for them; remembers what would show that they have changed.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use casemate_policy::{Files, Reading, select};

use super::watch::Watch;

/// Time stamps of files are coarse: one that is younger than this may yet hide a change.
const SETTLED: Duration = Duration::from_secs(1);

/// Texts of files.
pub(super) type Texts = BTreeMap<PathBuf, String>;

/// What a look shows, or the number of the error: a way that is not there and one that leads into itself are two
/// things, which the person is told of in other words.
type Seen<T> = Result<T, Option<i32>>;

fn metadata(path: &Path) -> Seen<fs::Metadata> {
    fs::metadata(path).map_err(|error| error.raw_os_error())
}

/// What was looked at, as far as no watch is enough to see that it has changed.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Directories that are watched: a path may lead to another one than it did.
    ways: Vec<(PathBuf, Seen<(u64, u64)>)>,
    /// What is not watched.
    stamps: Vec<(PathBuf, Seen<Stamp>)>,
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
    fn of(path: &Path) -> Seen<Self> {
        let metadata = metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn way(path: &Path) -> Seen<(u64, u64)> {
    let metadata = metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Looked {
    pub(super) fn is_unchanged(&self) -> bool {
        self.ways.iter().all(|(path, before)| way(path) == *before)
            && self
                .stamps
                .iter()
                .all(|(path, before)| Stamp::of(path) == *before)
    }

    /// Whether every stamp is old enough, at a time, that a later change must show.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else {
            return self.stamps.is_empty();
        };
        let newest = self
            .stamps
            .iter()
            .filter_map(|(_, stamp)| stamp.as_ref().ok())
            .map(|stamp| stamp.changed.0.max(stamp.modified.0))
            .max();
        let newest = newest.map(u64::try_from);
        // A whole second more, because the fraction was cut off.
        newest.is_none_or(|newest| {
            newest.is_ok_and(|newest| now > Duration::from_secs(newest + 1) + SETTLED)
        })
    }
}

/// One reading.
pub(super) struct Disk<'a> {
    directories: &'a [PathBuf],
    watch: RefCell<Option<&'a mut Watch>>,
    /// The texts of the last reading: a file that is being written counts as it was.
    before: &'a Texts,
    looked: RefCell<Looked>,
    texts: RefCell<Texts>,
}

impl<'a> Disk<'a> {
    pub(super) fn new(
        directories: &'a [PathBuf],
        mut watch: Option<&'a mut Watch>,
        before: &'a Texts,
    ) -> Self {
        if let Some(watch) = &mut watch {
            watch.begin();
        }
        Self {
            directories,
            watch: RefCell::new(watch),
            before,
            looked: RefCell::default(),
            texts: RefCell::default(),
        }
    }

    /// What was read, to be compared and kept.
    pub(super) fn end(self) -> (Looked, Texts) {
        (self.looked.into_inner(), self.texts.into_inner())
    }

    /// All that can be read, and what is wrong with the directories themselves.
    pub(super) fn reading(&self) -> (Reading, Vec<String>) {
        let mut names = Vec::new();
        let mut faults = Vec::new();
        let mut exists = false;
        for (index, directory) in self.directories.iter().enumerate() {
            let mut looked = self.looked.borrow_mut();
            looked.ways.push((directory.clone(), way(directory)));
            drop(looked);
            names.push(match self.list(index, "") {
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

    /// Names of the regular files and of links to such.
    fn list(&self, directory: usize, path: &str) -> io::Result<Vec<String>> {
        let whole = self.path(directory, path);
        let watched = self.watch_directories(directory, path);
        if !watched {
            self.stamp(&whole);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&whole)? {
            let entry = entry?;
            // A link that leads nowhere is listed too: it must not go unseen.
            let is_file = match entry.file_type() {
                Ok(kind) if kind.is_file() => true,
                Ok(kind) if kind.is_dir() => false,
                _ => {
                    // Where a link leads to is not for this directory's watch to tell.
                    self.stamp(&entry.path());
                    fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file())
                }
            };
            if is_file {
                // A name that is not text is refused with the others that nobody can order.
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn path(&self, directory: usize, path: &str) -> PathBuf {
        match self.directories.get(directory) {
            Some(directory) if path.is_empty() => directory.clone(),
            Some(directory) => directory.join(path),
            None => PathBuf::from(path),
        }
    }

    fn stamp(&self, path: &Path) {
        let stamp = (path.to_owned(), Stamp::of(path));
        self.looked.borrow_mut().stamps.push(stamp);
    }

    /// Watches the top directory and every one on the way to a path in it, itself included when it is one. `false`
    /// when the path may come to mean something else without a word, as by links or out of the directory.
    fn watch_directories(&self, directory: usize, path: &str) -> bool {
        let mut watch = self.watch.borrow_mut();
        let (Some(watch), Some(top)) = (watch.as_mut(), self.directories.get(directory)) else {
            return false;
        };
        if watch.directory(top).is_none() {
            return false;
        }
        let mut whole = top.clone();
        for component in Path::new(path).components() {
            let Component::Normal(name) = component else {
                return false;
            };
            whole.push(name);
            match fs::symlink_metadata(&whole) {
                Ok(metadata) if metadata.is_dir() => {
                    if watch.directory(&whole).is_none() {
                        return false;
                    }
                }
                Ok(metadata) => return metadata.is_file(),
                // The directory that it would have to be in is watched.
                Err(error) => return error.kind() == io::ErrorKind::NotFound,
            }
        }
        true
    }

    fn read(&self, directory: usize, relative: &str, path: &Path) -> Result<String, String> {
        let wrong = |error: io::Error| format!("cannot read {}: {error}", path.display());
        let mut watched = self.watch_directories(directory, relative);
        let is_file = fs::metadata(path).map_err(|error| {
            if !watched {
                self.stamp(path);
            }
            wrong(error)
        })?;
        // Anything else, such as a pipe, could keep every call waiting.
        if !is_file.is_file() {
            if !watched {
                self.stamp(path);
            }
            return Err(format!("{} is not a file", path.display()));
        }
        let mut being_written = false;
        if let Some(watch) = self.watch.borrow_mut().as_mut() {
            match watch.file(path) {
                Some(id) => being_written = watch.is_being_written(id),
                None => watched = false,
            }
        }
        if !watched {
            self.stamp(path);
        }
        match self.before.get(path) {
            Some(before) if being_written => Ok(before.clone()),
            _ => fs::read_to_string(path).map_err(wrong),
        }
    }
}

impl Files for Disk<'_> {
    fn text(&self, directory: usize, path: &str) -> Result<String, String> {
        let whole = self.path(directory, path);
        let text = self.read(directory, path, &whole)?;
        self.texts.borrow_mut().insert(whole, text.clone());
        Ok(text)
    }

    fn names(&self, directory: usize, path: &str) -> Result<Vec<String>, String> {
        self.list(directory, path).map_err(|error| {
            let path = self.path(directory, path);
            format!("cannot list {}: {error}", path.display())
        })
    }

    fn display(&self, directory: usize, path: &str) -> String {
        self.path(directory, path).display().to_string()
    }
}
