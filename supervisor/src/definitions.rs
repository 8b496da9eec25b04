//! Definitions of app VMs: `vms/NAME.toml` in the configuration directory. The file name is the VM's name.
//!
//! They belong to the person: they are read anew at each use, so an edit counts from the next start on, and a broken
//! one spoils only its own VM.

use std::{io, path::PathBuf};

use casemate_vm::{VmKind, VmName, VmSpec};

use crate::{
    durable,
    located::{self, Unreadable},
    refusal::Refusal,
};

/// The folder of definitions.
#[derive(Clone, Debug)]
pub(crate) struct Definitions {
    folder: PathBuf,
}

impl Definitions {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Every file that could name a VM, sorted. Files with other names are a person's notes.
    pub(crate) fn names(&self) -> io::Result<Vec<VmName>> {
        let names = durable::names(&self.folder, ".toml")?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) fn exists(&self, name: &VmName) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// The definition of a VM.
    pub(crate) fn load(&self, name: &VmName) -> Result<VmSpec, Refusal> {
        let path = self.path(name);
        let spec: VmSpec = located::read(&path).map_err(|error| match error {
            Unreadable::Missing(_) => Refusal::no_vm(name.as_str()),
            other => Refusal::failed(format!("the definition of '{name}' is wrong: {other}")),
        })?;
        let wrong = |what: String| {
            Refusal::failed(format!(
                "the definition of '{name}' is wrong: {}: {what}",
                path.display()
            ))
        };
        spec.check().map_err(|error| wrong(error.to_string()))?;
        if spec.kind != VmKind::App {
            return Err(wrong(
                "kind must be \"app\"; disposables are made by `casemate run --disposable`"
                    .to_owned(),
            ));
        }
        Ok(spec)
    }

    /// Adds a definition; of two creators one wins, the other gets `AlreadyExists`.
    pub(crate) fn create(&self, name: &VmName, spec: &VmSpec) -> io::Result<()> {
        let text = toml::to_string_pretty(spec).map_err(io::Error::other)?;
        durable::create(&self.path(name), &text)
    }

    pub(crate) fn remove(&self, name: &VmName) -> io::Result<()> {
        durable::remove(&self.path(name))
    }

    fn path(&self, name: &VmName) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }
}
