//! What the supervisor wants of the store, in its own words and errors. All of it blocks.

use std::{fs::File, os::fd::OwnedFd};

use casemate_storage::{Revision, Store, TemplateState};
use casemate_vm::{VmKind, VmName, VmSpec};

use crate::{paths::Paths, refusal::Refusal};

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    store: Store,
}

/// Everything on disk that a start needs, open.
#[derive(Debug)]
pub(crate) struct StartVolumes {
    pub(crate) revision: u32,
    pub(crate) cmdline: String,
    pub(crate) kernel: File,
    pub(crate) initrd: File,
    /// The template's root image, read-only.
    pub(crate) base: File,
    /// A fresh overlay of it.
    pub(crate) overlay: File,
    /// The private volume; its lock lives in the descriptor.
    pub(crate) private: OwnedFd,
}

impl Volumes {
    pub(crate) fn open(paths: &Paths) -> Result<Self, Refusal> {
        Ok(Self {
            store: Store::open(&paths.data)?,
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn templates(&self) -> Result<Vec<TemplateState>, Refusal> {
        Ok(self.store.templates()?)
    }

    /// An error when there is no such template.
    pub(crate) fn check_template(&self, template: &VmName) -> Result<(), Refusal> {
        self.store.revision(template)?;
        Ok(())
    }

    pub(crate) fn create_private(&self, name: &VmName, spec: &VmSpec) -> Result<(), Refusal> {
        Ok(self.store.create_private(name, spec.private_mib)?)
    }

    /// Deletes all that a VM has on disk.
    pub(crate) fn remove(&self, name: &VmName) -> Result<(), Refusal> {
        Ok(self.store.remove_vm(name)?)
    }

    /// Opens and makes what a start needs. Throw-away volumes have no name, so nothing is left when it fails.
    pub(crate) fn for_start(&self, name: &VmName, spec: &VmSpec) -> Result<StartVolumes, Refusal> {
        let revision = self.store.revision(&spec.template)?;
        let private = match spec.kind {
            VmKind::App => self.store.open_private(name)?.into(),
            VmKind::Disposable => self.store.throwaway_private(spec.private_mib)?.into(),
        };
        StartVolumes::of(&revision, self.store.throwaway_root(&revision)?, private)
    }

    /// The current revision of a template.
    pub(crate) fn revision(&self, template: &VmName) -> Result<Revision, Refusal> {
        Ok(self.store.revision(template)?)
    }
}

impl StartVolumes {
    /// What the template gives, with these two volumes.
    pub(crate) fn of(
        revision: &Revision,
        overlay: File,
        private: OwnedFd,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            revision: revision.number,
            cmdline: revision.manifest.cmdline.clone(),
            kernel: revision.open_kernel()?,
            initrd: revision.open_initrd()?,
            base: revision.open_root()?,
            overlay,
            private,
        })
    }
}
