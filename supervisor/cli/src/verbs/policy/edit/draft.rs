//! Copies of policy files, and how they take the place of the files.

use std::{
    env, fs,
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt, fchown},
    },
    path::{Component, Path, PathBuf},
};

use casemate_policy::select;
use rustix::fs::{Access, FlockOperation, access, flock};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    failure::{Failure, Kind},
    verbs::policy::rules::{Texts, list, text, whole},
};

/// What stands in a file that is new.
const NEW: &str = "\
# service            argument  source   target    action

";

/// Permissions of a file that is new.
const NEW_MODE: u32 = 0o644;

/// The copies that are edited.
pub(super) struct Drafts {
    directory: PathBuf,
    /// Holds the copies; removed with them.
    place: TempDir,
    drafts: Vec<Draft>,
}

/// One copy.
struct Draft {
    /// The file as a person calls it.
    shown: PathBuf,
    /// The file itself, where `shown` is a link.
    file: PathBuf,
    copy: PathBuf,
    /// What the file held when it was copied; `None` when there was none.
    before: Option<Vec<u8>>,
    /// What the editor was given.
    given: String,
    /// What the editor left.
    text: String,
}

impl Drafts {
    /// Copies files of the first directory; all policy files when none is named.
    pub(super) fn new(directories: &[PathBuf], names: &[String]) -> Result<Self, Failure> {
        let Some((directory, weaker)) = directories.split_first() else {
            return Err(Failure::usage("name a directory with --policy-dir"));
        };
        let about = |error: io::Error| {
            Failure::failed(format!("cannot edit in {}: {error}", directory.display()))
        };
        if directories.len() > 1 && !directory.exists() {
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(directory);
            made.map_err(about)?;
        }
        access(directory, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| about(error.into()))?;
        let names = match names {
            [] => all(directory)?,
            names => names.to_vec(),
        };
        let place = tempfile::Builder::new()
            .prefix("casemate-policy-")
            .tempdir_in(env::temp_dir())
            .map_err(|error| Failure::failed(format!("cannot make copies to edit: {error}")))?;
        let mut drafts = Vec::new();
        for name in &names {
            drafts.push(Draft::new(directory, weaker, name, place.path())?);
        }
        Ok(Self {
            directory: directory.clone(),
            place,
            drafts,
        })
    }

    pub(super) fn copies(&self) -> impl Iterator<Item = &PathBuf> {
        self.drafts.iter().map(|draft| &draft.copy)
    }

    /// The files that the copies are of, as a person calls them.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Path> {
        self.drafts.iter().map(|draft| draft.shown.as_path())
    }

    /// Reads what the editor has left.
    pub(super) fn texts(&mut self) -> Result<Texts, Failure> {
        for draft in &mut self.drafts {
            draft.text = text(&draft.copy).map_err(Failure::failed)?;
        }
        let changed = self.drafts.iter().filter(|draft| draft.is_changed());
        Ok(changed
            .map(|draft| (draft.file.clone(), draft.text.clone()))
            .collect())
    }

    /// Whether the editor has changed anything.
    pub(super) fn are_changed(&self) -> bool {
        self.drafts.iter().any(Draft::is_changed)
    }

    /// Puts the texts into the place of the files. Each file has either its old text or its new one at any time, and
    /// none is touched when one of them is not what was copied.
    pub(super) fn replace(&mut self) -> Result<(), Failure> {
        let done = self.install();
        if done.is_err() {
            // The work of a person is not thrown away.
            self.place.disable_cleanup(true);
        }
        done.map_err(|failure| {
            let kept = self.place.path().display();
            Failure::new(
                failure.kind,
                format!("{failure}; your text is kept in {kept}"),
            )
        })
    }

    fn install(&self) -> Result<(), Failure> {
        let about = |error: io::Error| {
            Failure::failed(format!(
                "cannot write in {}: {error}",
                self.directory.display()
            ))
        };
        let directory = fs::File::open(&self.directory).map_err(about)?;
        flock(directory.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let text = format!(
                "{} is being edited by another command",
                self.directory.display()
            );
            Failure::new(Kind::Busy, text)
        })?;
        let changed = || self.drafts.iter().filter(|draft| draft.is_changed());
        let mut ready = Vec::new();
        for draft in changed() {
            draft.check()?;
            ready.push((draft, draft.prepare()?));
        }
        for (draft, new) in ready {
            draft.check()?;
            draft.persist(new)?;
            let parent = draft.file.parent().unwrap_or(&self.directory);
            let parent = fs::File::open(parent).map_err(about)?;
            parent.sync_all().map_err(about)?;
        }
        Ok(())
    }
}

/// The policy files of a directory, in their order.
fn all(directory: &Path) -> Result<Vec<String>, Failure> {
    let shown = directory.display();
    let names = list(directory)
        .map_err(|error| Failure::failed(format!("cannot list {shown}: {error}")))?;
    let chosen =
        select(&[names]).map_err(|refused| Failure::failed(format!("{shown}: {refused}")))?;
    if chosen.is_empty() {
        return Err(Failure::new(
            Kind::NotFound,
            format!("there is no policy file in {shown}; name a new one, as in 30-own.policy"),
        ));
    }
    Ok(chosen.into_iter().map(|file| file.name).collect())
}

impl Draft {
    fn new(
        directory: &Path,
        weaker: &[PathBuf],
        name: &str,
        place: &Path,
    ) -> Result<Self, Failure> {
        let inside = Path::new(name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        if name.is_empty() || !inside {
            return Err(Failure::usage(format!(
                "'{name}' is not a file in {}",
                directory.display()
            )));
        }
        let shown = directory.join(name);
        let (before, given) = if shown.exists() {
            let text = text(&shown).map_err(Failure::failed)?;
            (Some(text.clone().into_bytes()), text)
        } else {
            let is_policy = select(&[vec![name.to_owned()]]).is_ok_and(|chosen| !chosen.is_empty());
            if name.contains('/') || !is_policy {
                return Err(Failure::usage(format!(
                    "there is no {}; a new file has a name as 30-own.policy, of a-z, 0-9, '_', '.' and '-'",
                    shown.display()
                )));
            }
            // A file of the same name will be hidden as a whole, so what it says is the text to start with.
            let hidden = weaker
                .iter()
                .find_map(|weaker| text(&weaker.join(name)).ok());
            (None, hidden.unwrap_or_else(|| NEW.to_owned()))
        };
        let copy = place.join(name);
        let write = || {
            fs::create_dir_all(copy.parent().unwrap_or(place))?;
            fs::write(&copy, &given)
        };
        write().map_err(|error| {
            Failure::failed(format!(
                "cannot write a copy to {}: {error}",
                copy.display()
            ))
        })?;
        Ok(Self {
            file: whole(&shown),
            shown,
            copy,
            before,
            text: given.clone(),
            given,
        })
    }

    fn is_changed(&self) -> bool {
        self.text != self.given
    }

    /// Whether the file is still the one that was copied.
    fn check(&self) -> Result<(), Failure> {
        let now = match fs::read(&self.file) {
            Ok(now) => Some(now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.failed(&error)),
        };
        if now == self.before && whole(&self.shown) == self.file {
            return Ok(());
        }
        let shown = self.shown.display();
        Err(Failure::failed(format!(
            "{shown} was changed by somebody else meanwhile, nothing was replaced"
        )))
    }

    /// The new text in a file beside the old one, with its owner and permissions, safe on the disk.
    fn prepare(&self) -> Result<NamedTempFile, Failure> {
        let run = || {
            let parent = self.file.parent().unwrap_or(Path::new("."));
            // A name that no reader takes for a policy, whatever happens to us.
            let mut new = tempfile::Builder::new()
                .prefix(".edit-")
                .tempfile_in(parent)?;
            new.write_all(self.text.as_bytes())?;
            let mode = match &self.before {
                None => NEW_MODE,
                Some(_) => {
                    let (old, made) = (fs::metadata(&self.file)?, new.as_file().metadata()?);
                    if (old.uid(), old.gid()) != (made.uid(), made.gid()) {
                        fchown(new.as_file(), Some(old.uid()), Some(old.gid()))?;
                    }
                    old.mode() & 0o7777
                }
            };
            rustix::fs::fchmod(new.as_file(), mode.into())?;
            new.as_file().sync_all()?;
            Ok(new)
        };
        run().map_err(|error: io::Error| self.failed(&error))
    }

    fn persist(&self, new: NamedTempFile) -> Result<(), Failure> {
        let done = match self.before {
            Some(_) => new.persist(&self.file),
            None => new.persist_noclobber(&self.file),
        };
        done.map(drop).map_err(|error| self.failed(&error.error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot replace {}: {error}", self.shown.display()))
    }
}
