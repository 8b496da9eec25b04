//! A control group for each vmm: however hard a VM tries, it takes memory, processes and processor time only up to a
//! limit that the host set.
//!
//! Version 2 needs a group that was delegated to us and in which nobody else is; version 1 needs directories that we may
//! write. Where there is neither, VMs run without these limits, and the log and `casemate doctor` say so.

mod find;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use casemate_vm::{VmName, VmSpec};

/// Memory of a vmm besides its guest's, in bytes: programs, queues, 16 MiB of streams, tables of overlays.
const OVERHEAD: u64 = 64 << 20;

/// What a group may use beyond the mark from which on it is slowed down, in bytes.
const SLACK: u64 = 64 << 20;

/// Processes and threads of a vmm: 8 vCPUs, its disks, itself, and what the kernel adds, many times over.
const MAX_PROCESSES: u32 = 128;

/// Share of the processors, relative to other VMs: the same for each, however many vCPUs it has.
const CPU_WEIGHT: u64 = 100;

/// What one VM may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// From here on it is slowed down, in bytes.
    pub(crate) memory_high: u64,
    /// Beyond this it is ended, in bytes.
    pub(crate) memory_max: u64,
    pub(crate) processes: u32,
    /// 1 to 10000; 100 is what everybody has.
    pub(crate) cpu_weight: u64,
}

impl Limits {
    /// Those of a VM with `window_memory` bytes shared with the compositor.
    pub(crate) fn of(spec: &VmSpec, window_memory: u64) -> Self {
        let memory_high = spec.memory_mib.bytes() + window_memory + OVERHEAD;
        Self {
            memory_high,
            memory_max: memory_high + SLACK,
            processes: MAX_PROCESSES,
            cpu_weight: CPU_WEIGHT,
        }
    }
}

/// Makes groups.
#[derive(Debug)]
pub(crate) struct Limiter {
    tree: Tree,
    /// In the name of every group: tells the houses of one user and of many apart.
    house: u64,
}

/// Where groups can be made.
#[derive(Debug)]
enum Tree {
    /// One tree of all controllers; our own group, which is empty but for what we make in it.
    V2(PathBuf),
    /// A tree for each controller; our own group in each.
    V1(V1),
    /// Nowhere.
    None,
}

/// Our groups of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct V1 {
    memory: PathBuf,
    pids: PathBuf,
    cpu: PathBuf,
}

/// A group that waits for its process: whoever writes 0 to all of these files is in it.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) entrances: Vec<PathBuf>,
}

impl Limiter {
    /// Finds what this process may do, and on version 2 takes over its own group. `runtime` is the house's directory
    /// of sockets.
    ///
    /// # Errors
    /// When that is not there.
    pub(crate) fn find(runtime: &Path) -> io::Result<Self> {
        let tree = find::find().unwrap_or_else(|why| {
            tracing::warn!(
                why,
                "VMs run without limits of their own on memory and processors"
            );
            Tree::None
        });
        tracing::debug!(?tree, "control groups");
        Ok(Self {
            tree,
            house: fs::metadata(runtime)?.ino(),
        })
    }

    /// Makes the group of a VM, empty and with its limits set. An old one of that name is replaced.
    ///
    /// # Errors
    /// The kernel's. A VM must then not start: its limits would be missing.
    pub(crate) fn make(&self, name: &VmName, limits: &Limits) -> io::Result<Group> {
        self.remove(name);
        let mut entrances = Vec::new();
        for (parent, settings) in self.tree.settings(limits) {
            let folder = parent.join(self.folder_name(name));
            fs::create_dir(&folder)?;
            for (file, value) in settings {
                write(&folder.join(file), &value.to_string())?;
            }
            entrances.push(folder.join("cgroup.procs"));
        }
        Ok(Group { entrances })
    }

    /// Removes the group of a VM that has ended; nothing when there is none.
    pub(crate) fn remove(&self, name: &VmName) {
        for parent in self.tree.parents() {
            let folder = parent.join(self.folder_name(name));
            match fs::remove_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(vm = %name, %error, "its control group stays"),
            }
        }
    }

    /// A name that no controller's file has.
    fn folder_name(&self, name: &VmName) -> String {
        format!("casemate-{}-{name}", self.house)
    }
}

impl Tree {
    fn parents(&self) -> Vec<&Path> {
        match self {
            Self::V2(own) => vec![own],
            Self::V1(V1 { memory, pids, cpu }) => vec![memory, pids, cpu],
            Self::None => Vec::new(),
        }
    }

    /// For each parent what is written to a group in it, in order.
    fn settings(&self, limits: &Limits) -> Vec<(&Path, Vec<(&'static str, u64)>)> {
        let processes = ("pids.max", u64::from(limits.processes));
        match self {
            Self::V2(own) => vec![(
                own,
                vec![
                    ("memory.high", limits.memory_high),
                    ("memory.max", limits.memory_max),
                    // All of a VM or nothing of it.
                    ("memory.oom.group", 1),
                    processes,
                    ("cpu.weight", limits.cpu_weight),
                ],
            )],
            Self::V1(V1 { memory, pids, cpu }) => vec![
                (
                    memory,
                    vec![
                        ("memory.limit_in_bytes", limits.memory_max),
                        ("memory.soft_limit_in_bytes", limits.memory_high),
                    ],
                ),
                (pids, vec![processes]),
                // 1024 is here what 100 is on version 2.
                (cpu, vec![("cpu.shares", limits.cpu_weight * 1024 / 100)]),
            ],
            Self::None => Vec::new(),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Moves this process into groups, before it becomes a vmm.
///
/// # Errors
/// The kernel's.
pub(crate) fn enter(entrances: &[PathBuf]) -> io::Result<()> {
    entrances
        .iter()
        .try_for_each(|entrance| write(entrance, "0"))
}
