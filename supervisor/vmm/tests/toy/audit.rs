//! A process as `/proc` shows it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// An open file: what it is, and how it was opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Open {
    what: String,
    flags: String,
}

impl Open {
    pub(crate) fn new(what: &str, flags: &str) -> Self {
        Self {
            what: what.to_owned(),
            flags: flags.to_owned(),
        }
    }
}

pub(crate) struct Process(PathBuf);

impl Process {
    pub(crate) fn of(pid: Pid) -> Self {
        Self(format!("/proc/{}", pid.as_raw_nonzero()).into())
    }

    /// A file of the process.
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.0.join(name))
    }

    /// The user that its files in `/proc` belong to.
    pub(crate) fn owner(&self) -> u32 {
        fs::metadata(self.0.join("status")).expect("it runs").uid()
    }

    /// What is open, and how many of each.
    pub(crate) fn open_files(&self) -> io::Result<BTreeMap<Open, usize>> {
        let sockets = self.sockets();
        let mut open = BTreeMap::new();
        for entry in fs::read_dir(self.0.join("fd"))? {
            let entry = entry?;
            let target = fs::read_link(entry.path())?;
            let target = target.to_string_lossy();
            // A file without a name.
            let target = target.strip_suffix(" (deleted)").unwrap_or(&target);
            let what = match target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'))
            {
                Some(inode) => {
                    let kind = sockets.get(inode).map_or("unknown", String::as_str);
                    format!("socket:{kind}")
                }
                // kvm-vcpu:0 and so on.
                None if target.starts_with("anon_inode:kvm-vcpu") => {
                    "anon_inode:kvm-vcpu".to_owned()
                }
                // Of the process that it was opened in.
                None if target.ends_with("/pagemap") => "pagemap".to_owned(),
                None => target.to_owned(),
            };
            let info = self.read(&format!("fdinfo/{}", entry.file_name().to_string_lossy()))?;
            *open.entry(Open::new(&what, &flags(&info))).or_insert(0) += 1;
        }
        Ok(open)
    }

    /// Kinds of the local sockets by inode: made in our network namespace, so they are listed there.
    fn sockets(&self) -> BTreeMap<String, String> {
        let _ = self;
        let table = fs::read_to_string("/proc/net/unix").expect("readable by all");
        table
            .lines()
            .skip(1)
            .filter_map(|line| {
                let fields: Vec<_> = line.split_whitespace().collect();
                let kind = match *fields.get(4)? {
                    "0001" => "unix/stream",
                    "0002" => "unix/datagram",
                    "0005" => "unix/seqpacket",
                    other => other,
                };
                Some(((*fields.get(6)?).to_owned(), kind.to_owned()))
            })
            .collect()
    }

    pub(crate) fn tasks(&self) -> Vec<Task> {
        fs::read_dir(self.0.join("task"))
            .expect("it runs")
            .map(|task| Task::at(&task.expect("it runs").path()))
            .collect()
    }
}

/// Flags of an open file, from its `fdinfo`.
fn flags(info: &str) -> String {
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .expect("an octal number");
    let mut text = match flags & 3 {
        0 => "r",
        1 => "w",
        _ => "rw",
    }
    .to_owned();
    for (bit, name) in [
        (0o2000, " append"),
        (0o4000, " nonblock"),
        (0o2000000, " cloexec"),
    ] {
        if flags & bit != 0 {
            text.push_str(name);
        }
    }
    text
}

/// A thread.
pub(crate) struct Task {
    path: PathBuf,
    status: String,
}

impl Task {
    fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            status: fs::read_to_string(path.join("status")).expect("it runs"),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.status("Name").expect("every thread has one")
    }

    pub(crate) fn status(&self, field: &str) -> Option<String> {
        let mut lines = self.status.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }

    pub(crate) fn namespace(&self, kind: &str) -> Option<PathBuf> {
        fs::read_link(self.path.join("ns").join(kind)).ok()
    }
}

/// A namespace of ours.
pub(crate) fn own_namespace(kind: &str) -> Option<PathBuf> {
    Some(fs::read_link(format!("/proc/self/ns/{kind}")).expect("ours"))
}
