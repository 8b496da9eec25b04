//! The store: one directory that holds templates and volumes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use casemate_vm::{Mebibytes, VmName};

use crate::{
    Revision, Staging, StoreError,
    lock::lock_exclusive,
    revision::{numbers, switch},
    throwaway::{format_overlay, nameless},
};

/// The directory of templates and volumes; see the crate's drawing.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A template as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateState {
    /// Its name.
    pub name: VmName,
    /// The revision that new starts use.
    pub current: u32,
    /// Every finished revision, ascending.
    pub revisions: Vec<u32>,
    /// Kernel version of the current revision.
    pub kernel: String,
    /// When the current revision was made, seconds since 1970.
    pub created: u64,
}

/// A volume that only the holder of this descriptor, and of copies of it, may write.
#[derive(Debug)]
pub struct LockedFile(File);

impl AsFd for LockedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<LockedFile> for OwnedFd {
    fn from(file: LockedFile) -> Self {
        file.0.into()
    }
}

impl Store {
    /// Opens the store, making its directories (mode 0700) where they are missing.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for name in ["templates", "vms", "volatile", "warm"] {
            let dir = root.join(name);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|error| StoreError::io("create", &dir, error))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Every template that has a current revision, sorted by name.
    ///
    /// # Errors
    /// When the directory or a manifest cannot be read.
    pub fn templates(&self) -> Result<Vec<TemplateState>, StoreError> {
        let dir = self.root.join("templates");
        let mut templates = Vec::new();
        for entry in fs::read_dir(&dir)
            .map_err(|error| StoreError::io("list", &dir, error))?
            .flatten()
        {
            let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<VmName>().ok())
            else {
                continue;
            };
            match self.revision(&name) {
                Ok(current) => templates.push(TemplateState {
                    name: name.clone(),
                    current: current.number,
                    revisions: numbers(&self.template_dir(&name))?,
                    kernel: current.manifest.kernel,
                    created: current.manifest.created,
                }),
                Err(StoreError::NoTemplate(_)) => {}
                Err(error) => return Err(error),
            }
        }
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(templates)
    }

    /// The current revision of a template.
    ///
    /// # Errors
    /// [`StoreError::NoTemplate`], or a damaged manifest.
    pub fn revision(&self, template: &VmName) -> Result<Revision, StoreError> {
        let current = self.template_dir(template).join("current");
        let dir = match fs::canonicalize(&current) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoTemplate(template.to_string()));
            }
            Err(error) => return Err(StoreError::io("follow", &current, error)),
        };
        Revision::load(template.clone(), dir)
    }

    /// Begins a new revision of a template.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another build of the same template runs.
    pub fn stage(&self, template: &VmName) -> Result<Staging, StoreError> {
        Staging::begin(template.clone(), self.template_dir(template))
    }

    /// Makes an older or newer finished revision the current one.
    ///
    /// # Errors
    /// [`StoreError::NoTemplate`] when there is no such revision.
    pub fn switch(&self, template: &VmName, number: u32) -> Result<(), StoreError> {
        let dir = self.template_dir(template);
        if !numbers(&dir)?.contains(&number) {
            return Err(StoreError::NoTemplate(template.to_string()));
        }
        switch(&dir, number)
    }

    /// Makes the private volume of a VM: sparse, zeroed, formatted by the guest at its first start.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; nothing is left behind by a failure.
    pub fn create_private(&self, vm: &VmName, size: Mebibytes) -> Result<(), StoreError> {
        let dir = self.vm_dir(vm);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| StoreError::io("create", &dir, error))?;
        let path = dir.join("private.img");
        let file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists(vm.to_string()));
            }
            Err(error) => return Err(StoreError::io("create", &path, error)),
        };
        file.set_len(size.bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| {
                // The volume is ours and empty; a failure to remove it too adds nothing to the first error.
                let _ = fs::remove_file(&path);
                StoreError::io("size", &path, error)
            })
    }

    /// Opens the private volume of a VM for its one writer.
    ///
    /// # Errors
    /// [`StoreError::NoVolume`], [`StoreError::Locked`].
    pub fn open_private(&self, vm: &VmName) -> Result<LockedFile, StoreError> {
        let path = self.vm_dir(vm).join("private.img");
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoVolume(vm.to_string()));
            }
            Err(error) => return Err(StoreError::io("open", &path, error)),
        };
        lock_exclusive(&file, &path)?;
        Ok(LockedFile(file))
    }

    /// Deletes everything that a VM has on disk. Nothing to delete is no error.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while its volume is in use.
    pub fn remove_vm(&self, vm: &VmName) -> Result<(), StoreError> {
        let dir = self.vm_dir(vm);
        let _held = match self.open_private(vm) {
            Ok(file) => Some(file),
            Err(StoreError::NoVolume(_)) => None,
            Err(error) => return Err(error),
        };
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &dir, error))
            }
            _ => Ok(()),
        }
    }

    /// A fresh qcow2 overlay over the revision's root image, without a name.
    ///
    /// # Errors
    /// When the volatile directory has no room or its file system no nameless files.
    pub fn throwaway_root(&self, revision: &Revision) -> Result<File, StoreError> {
        let size = revision
            .open_root()?
            .metadata()
            .map_err(|error| StoreError::io("inspect", &revision.root_path(), error))?;
        let file = nameless(&self.root.join("volatile"))?;
        format_overlay(&file, size.len(), &revision.root_path())?;
        Ok(file)
    }

    /// A zeroed private volume for a disposable, without a name.
    ///
    /// # Errors
    /// As [`Self::throwaway_root`].
    pub fn throwaway_private(&self, size: Mebibytes) -> Result<File, StoreError> {
        let dir = self.root.join("volatile");
        let file = nameless(&dir)?;
        file.set_len(size.bytes())
            .map_err(|error| StoreError::io("size a volume in", &dir, error))?;
        Ok(file)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn template_dir(&self, template: &VmName) -> PathBuf {
        self.root.join("templates").join(template.as_str())
    }

    fn vm_dir(&self, vm: &VmName) -> PathBuf {
        self.root.join("vms").join(vm.as_str())
    }
}

#[cfg(test)]
mod tests;
