//! A receiver in a directory with things around it that must stay as they are.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use crate::support::wait_until;

pub(crate) const EEXIST: u32 = 17;
pub(crate) const EPERM: u32 = 1;
pub(crate) const ENOENT: u32 = 2;
pub(crate) const EXDEV: u32 = 18;
pub(crate) const ENOTDIR: u32 = 20;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const EFBIG: u32 = 27;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const ENAMETOOLONG: u32 = 36;
pub(crate) const ENOLINK: u32 = 67;
pub(crate) const EILSEQ: u32 = 84;
pub(crate) const EREMOTEIO: u32 = 121;
pub(crate) const EDQUOT: u32 = 122;
pub(crate) const ENDED_INSIDE: u32 = 31_415_926;

/// A directory to receive into, and things beside it that must not change.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

/// Every path below `root` but those below its `in`, with what it is.
pub(crate) fn outside(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(path: &Path, into: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                fs::read_to_string(&path).unwrap()
            } else {
                String::new()
            };
            let times = (metadata.mtime(), metadata.mtime_nsec());
            let what = format!("{:o} {times:?} {content}", metadata.mode());
            if metadata.is_dir() && path.file_name().unwrap() != "in" {
                walk(&path, into);
                into.insert(path, what);
            } else if !metadata.is_dir() {
                into.insert(path, what);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, &mut found);
    found
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/kept"), "untouched").unwrap();
        fs::write(dir.path().join("b"), "untouched").unwrap();
        let before = outside(dir.path());
        Self { dir, before }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    pub(crate) fn start(&self, options: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_casemate-agent"))
            .args(["service", "qubes.Filecopy", "--incoming"])
            .arg(self.root())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn receive(&self, stream: &[u8]) -> Result<(), u32> {
        finish(self.start(&[]), stream)
    }

    /// What is in the directory: path, and what a file holds.
    pub(crate) fn landed(&self) -> BTreeMap<String, String> {
        fn walk(root: &Path, path: &Path, into: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                let what = if metadata.is_dir() {
                    walk(root, &path, into);
                    "/".to_owned()
                } else if metadata.is_symlink() {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                } else if metadata.file_type().is_fifo() {
                    "|".to_owned()
                } else {
                    String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
                };
                into.insert(name.to_owned(), what);
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.root(), &self.root(), &mut found);
        found
    }

    /// Checks what landed, and that nothing else has changed.
    pub(crate) fn check(&self, expected: &[(&str, &str)], what: &str) {
        let expected: BTreeMap<String, String> = expected
            .iter()
            .map(|(name, content)| ((*name).to_owned(), (*content).to_owned()))
            .collect();
        assert_eq!(self.landed(), expected, "{what}: what landed");
        assert_eq!(outside(self.dir.path()), self.before, "{what}: outside");
    }
}

/// Sends everything and returns the error of the outcome; the exit status must be that of the outcome.
pub(crate) fn finish(mut child: Child, stream: &[u8]) -> Result<(), u32> {
    // It may have refused and gone before it read everything.
    let _ = child.stdin.take().unwrap().write_all(stream);
    outcome(child)
}

pub(crate) fn outcome(child: Child) -> Result<(), u32> {
    let output = child.wait_with_output().unwrap();
    let code = output.status.code();
    let Some(error) = output.stdout.first_chunk() else {
        assert_eq!(code, Some(1), "no outcome");
        return Err(u32::MAX);
    };
    let error = u32::from_le_bytes(*error);
    assert_eq!(code, Some(i32::from(error.to_le_bytes()[0])));
    if error == 0 { Ok(()) } else { Err(error) }
}

/// Runs `script` as root of namespaces of its own; `$1` is the place, `$2` the agent.
pub(crate) fn in_namespace(place: &Place, script: &str) -> Child {
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--", "sh", "-ec"])
        .arg(script)
        .args(["sh", place.dir.path().to_str().unwrap()])
        .arg(env!("CARGO_BIN_EXE_casemate-agent"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the receiver has taken in everything and wants more.
pub(crate) fn until_it_waits(child: &Child, input: &ChildStdin) {
    let stat = format!("/proc/{}/stat", child.id());
    wait_until("the receiver waits for more", || {
        let text = fs::read_to_string(&stat).unwrap();
        let state = text.rsplit_once(") ").unwrap().1.chars().next();
        rustix::io::ioctl_fionread(input).unwrap() == 0 && state == Some('S')
    });
}
