//! Where rules and facts come from: what the command line names, or what the daemons use.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use casemate_api::Bus;
use casemate_policy::{Facts, Files, Policy, Reading, select};

use crate::{
    failure::{Failure, Kind},
    session,
};

/// Largest file of rules or facts that is read, in bytes: a wrong path must not fill the memory.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The files and facts that a verb works on.
#[derive(Debug, clap::Args)]
pub(super) struct Sources {
    /// Directory of *.policy files, strongest first; may be given several times [default: those of the broker]
    #[arg(long, value_name = "DIR")]
    policy_dir: Vec<PathBuf>,
    /// JSON file with facts about VMs: {"domains":{NAME:{"type","power_state","tags",...}}} [default: from casemated]
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
}

/// Texts that count instead of those on disk, by the whole path of their file.
pub(super) type Texts = BTreeMap<PathBuf, String>;

/// Everything that was read, and what is wrong with the directories themselves.
pub(super) struct Read {
    pub(super) reading: Reading,
    pub(super) faults: Vec<String>,
}

impl Sources {
    /// Whether nothing has to be asked of a daemon.
    pub(super) fn named(&self) -> bool {
        self.facts.is_some()
    }

    /// The directories, strongest first.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        if self.policy_dir.is_empty() {
            standard()
        } else {
            self.policy_dir.clone()
        }
    }

    /// Reads the rules, errors and all.
    pub(super) fn read(&self) -> Result<Read, Failure> {
        self.read_with(Texts::new())
    }

    /// Reads the rules as if some files had another text than they have.
    pub(super) fn read_with(&self, texts: Texts) -> Result<Read, Failure> {
        let disk = Disk {
            directories: self.directories(),
            texts,
        };
        let mut names = Vec::new();
        let mut exists = false;
        for directory in &disk.directories {
            names.push(match disk.list(directory) {
                Ok(listed) => {
                    exists = true;
                    listed
                }
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && self.policy_dir.is_empty() =>
                {
                    Vec::new()
                }
                Err(error) => {
                    let kind = match error.kind() {
                        io::ErrorKind::NotFound => Kind::NotFound,
                        _ => Kind::Failed,
                    };
                    let text = format!(
                        "cannot read the policy directory {}: {error}",
                        directory.display()
                    );
                    return Err(Failure::new(kind, text));
                }
            });
        }
        if !exists {
            return Err(Failure::new(
                Kind::NotFound,
                "there is no policy directory; name one with --policy-dir",
            ));
        }
        Ok(match select(&names) {
            Ok(top) => Read {
                reading: Reading::new(&top, &disk),
                faults: Vec::new(),
            },
            Err(refused) => Read {
                reading: Reading::default(),
                faults: vec![format!(
                    "{}: {refused}",
                    disk.display(refused.directory, &refused.name)
                )],
            },
        })
    }

    /// The rules, if nothing is wrong with them.
    pub(super) fn policy(&self) -> Result<Policy, Failure> {
        let read = self.read()?;
        if let Some(fault) = read.faults.into_iter().next() {
            return Err(Failure::failed(fault));
        }
        let more = read.reading.errors.len().saturating_sub(1);
        read.reading.policy().map_err(|error| {
            let more = match more {
                0 => String::new(),
                more => format!(" (and {more} more; `casemate policy lint` lists them)"),
            };
            Failure::failed(format!("{error}{more}"))
        })
    }

    /// The facts.
    pub(super) async fn facts(&self) -> Result<Facts, Failure> {
        let (json, origin) = match &self.facts {
            Some(path) => (
                text(path).map_err(Failure::failed)?,
                path.display().to_string(),
            ),
            None => (
                session::supervisor().await?.facts().await?,
                "casemated's answer".to_owned(),
            ),
        };
        serde_json::from_str(&json).map_err(|error| {
            Failure::failed(format!("{origin}: these are no facts about VMs: {error}"))
        })
    }

    /// The facts of a supervisor that runs already.
    pub(super) async fn running_facts(&self) -> Option<Facts> {
        let connection = session::connect(Bus::Supervisor).await.ok()?;
        let json = casemate_api::supervisor(&connection)
            .await
            .ok()?
            .facts()
            .await
            .ok()?;
        serde_json::from_str(&json).ok()
    }
}

/// The directories that the broker reads.
fn standard() -> Vec<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let own = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(home);
    let shipped = env::var_os("CASEMATE_POLICY_RULES")
        .map(PathBuf::from)
        .or_else(|| {
            let program = env::current_exe().ok()?;
            Some(program.parent()?.parent()?.join("share/casemate/policy.d"))
        });
    own.map(|own| own.join("casemate/policy.d"))
        .into_iter()
        .chain([PathBuf::from("/etc/casemate/policy.d")])
        .chain(shipped)
        .collect()
}

/// The text of a regular file.
pub(super) fn text(path: &Path) -> Result<String, String> {
    let wrong = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let metadata = fs::metadata(path).map_err(wrong)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    if metadata.len() > MAX_FILE {
        return Err(format!(
            "{} is larger than {MAX_FILE} bytes",
            path.display()
        ));
    }
    fs::read_to_string(path).map_err(wrong)
}

/// Names of regular files, and of links whatever they lead to.
pub(super) fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The path of a file as it is known to [`Texts`]: whole and without links, also when there is no such file yet.
pub(super) fn whole(path: &Path) -> PathBuf {
    let new = || {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Some(fs::canonicalize(parent).ok()?.join(path.file_name()?))
    };
    fs::canonicalize(path)
        .ok()
        .or_else(new)
        .unwrap_or_else(|| path.to_owned())
}

/// The files as the parser asks for them.
struct Disk {
    directories: Vec<PathBuf>,
    texts: Texts,
}

impl Disk {
    fn path(&self, directory: usize, path: &str) -> PathBuf {
        match self.directories.get(directory) {
            Some(directory) => directory.join(path),
            None => PathBuf::from(path),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = list(path)?;
        let whole = whole(path);
        for text in self.texts.keys() {
            let name = text.file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            if text.parent() == Some(&whole) && !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl Files for Disk {
    fn text(&self, directory: usize, path: &str) -> Result<String, String> {
        let path = self.path(directory, path);
        match self.texts.get(&whole(&path)) {
            Some(text) => Ok(text.clone()),
            None => text(&path),
        }
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
