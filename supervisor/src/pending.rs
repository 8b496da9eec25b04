//! Creations and removals that a crash may have cut: one marker file per VM while either runs.
//!
//! Both end with "definition and volume" or with "neither". The definition decides: a marker without a definition
//! means that the volume goes; a marker with one means that a creation was finished or a removal not begun.

use std::{io, path::PathBuf};

use casemate_vm::VmName;

use crate::durable;

/// The folder of markers.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    folder: PathBuf,
}

impl Pending {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// To be called before anything of the VM is made or removed.
    pub(crate) fn begin(&self, name: &VmName) -> io::Result<()> {
        durable::replace(&self.path(name), "")
    }

    /// To be called when both or neither are there.
    pub(crate) fn end(&self, name: &VmName) -> io::Result<()> {
        durable::remove(&self.path(name))
    }

    /// What a dead supervisor has left.
    pub(crate) fn left(&self) -> io::Result<Vec<VmName>> {
        let names = durable::names(&self.folder, ".pending")?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn path(&self, name: &VmName) -> PathBuf {
        self.folder.join(format!("{name}.pending"))
    }
}
