//! What must be known of a running VM by a supervisor that did not start it: `run/NAME.toml` in the state directory.
//!
//! Written before the vmm is spawned, with the process added as soon as it is known, removed when the VM has ended.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use casemate_vm::{VmId, VmName, VmSpec};
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    located::{self, Unreadable},
    process::ProcessId,
};

/// One VM that runs, or is being started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RunRecord {
    pub(crate) id: VmId,
    pub(crate) revision: u32,
    /// Of the VM; a disposable's is only here.
    pub(crate) uuid: String,
    /// Whether the agent has reported.
    pub(crate) agent_reported: bool,
    /// Of no use without the supervisor that started it, and ended by the next: a VM of which a warm image is made, or one
    /// that went on from an image and is not told yet who it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unfinished: bool,
    /// The VM that a disposable was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_for: Option<VmName>,
    /// The broker's number of the call that a disposable ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ends_with_call: Option<u64>,
    /// The vmm, absent until it has said who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessId>,
    pub(crate) spec: VmSpec,
}

/// The folder of records.
#[derive(Debug)]
pub(crate) struct RunRecords {
    folder: PathBuf,
    /// Held from looking whether a record is there to writing it: a late update must not bring one back.
    writing: Mutex<()>,
}

impl RunRecords {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            writing: Mutex::new(()),
        }
    }

    pub(crate) fn names(&self) -> io::Result<Vec<VmName>> {
        let names = durable::names(&self.folder, ".toml")?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) fn load(&self, name: &VmName) -> Result<RunRecord, Unreadable> {
        located::read(&self.path(name))
    }

    /// Adds a record.
    pub(crate) fn write(&self, name: &VmName, record: &RunRecord) -> io::Result<()> {
        let text = toml::to_string(record).map_err(io::Error::other)?;
        durable::replace(&self.path(name), &text)
    }

    /// Changes a record; nothing happens when the VM has ended meanwhile.
    pub(crate) fn update(&self, name: &VmName, record: &RunRecord) -> io::Result<()> {
        let _writing = self.lock();
        if self.path(name).exists() {
            self.write(name, record)?;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, name: &VmName) -> io::Result<()> {
        let _writing = self.lock();
        durable::remove(&self.path(name))
    }

    /// Puts a record that cannot be read aside, for a person to look at.
    pub(crate) fn set_aside(&self, name: &VmName) -> io::Result<PathBuf> {
        let path = self.path(name);
        let aside = path.with_extension("broken");
        fs::rename(&path, &aside)?;
        Ok(aside)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &VmName) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }
}

#[cfg(test)]
mod tests {
    use casemate_vm::{Label, VmKind};

    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let records = RunRecords::new(dir.path().to_owned());
        let name: VmName = "disp0001".parse().unwrap();
        let template: VmName = "debian-12".parse().unwrap();
        let mut record = RunRecord {
            id: VmId(7),
            revision: 2,
            uuid: "u".to_owned(),
            agent_reported: false,
            unfinished: false,
            made_for: None,
            ends_with_call: None,
            process: None,
            spec: VmSpec::new(VmKind::Disposable, template, Label::Red),
        };
        for _ in 0..2 {
            records.write(&name, &record).unwrap();
            assert_eq!(records.load(&name).unwrap(), record);
            record.unfinished = true;
            record.made_for = Some("work".parse().unwrap());
            record.process = Some(ProcessId {
                pid: 42,
                started: 1,
            });
        }
        assert_eq!(records.names().unwrap(), std::slice::from_ref(&name));
        records.remove(&name).unwrap();
        records.update(&name, &record).unwrap();
        assert!(records.names().unwrap().is_empty(), "an ended VM came back");
        records.write(&name, &record).unwrap();
        let aside = records.set_aside(&name).unwrap();
        assert!(aside.exists());
        assert!(records.names().unwrap().is_empty());
    }
}
