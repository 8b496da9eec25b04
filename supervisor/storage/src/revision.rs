//! Template revisions: staged, sealed, then never written again.
//!
//! ```text
//! Staging (staging-N, locked) --commit(manifest)--> revisions/N --switch--> current
//!    \--drop--> removed
//! ```

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use casemate_vm::VmName;

use crate::{Manifest, ManifestFile, StoreError, lock::lock_exclusive, sha256_file};

/// Names of the files that every revision has.
pub(crate) const FILES: [&str; 3] = ["root.img", "vmlinux", "initrd"];

/// A finished, immutable revision of a template.
#[derive(Clone, Debug)]
pub struct Revision {
    /// The template.
    pub template: VmName,
    /// Its number, from 1 upwards.
    pub number: u32,
    /// What it consists of.
    pub manifest: Manifest,
    dir: PathBuf,
}

impl Revision {
    pub(crate) fn load(template: VmName, dir: PathBuf) -> Result<Self, StoreError> {
        let manifest = Manifest::load(&dir.join("manifest.toml"))?;
        Ok(Self {
            template,
            number: manifest.revision,
            manifest,
            dir,
        })
    }

    /// The root image, read-only.
    ///
    /// # Errors
    /// When it is missing or has another size than its manifest says.
    pub fn open_root(&self) -> Result<File, StoreError> {
        self.open("root.img")
    }

    /// The ELF kernel, read-only.
    ///
    /// # Errors
    /// As [`Self::open_root`].
    pub fn open_kernel(&self) -> Result<File, StoreError> {
        self.open("vmlinux")
    }

    /// The initrd, read-only.
    ///
    /// # Errors
    /// As [`Self::open_root`].
    pub fn open_initrd(&self) -> Result<File, StoreError> {
        self.open("initrd")
    }

    /// Path of the root image, for the name that an overlay's header mentions. Never opened through it by a vmm.
    pub(crate) fn root_path(&self) -> PathBuf {
        self.dir.join("root.img")
    }

    /// Compares every file with the digest in the manifest.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the first file that differs.
    pub fn verify(&self) -> Result<(), StoreError> {
        for (name, expected) in &self.manifest.files {
            let path = self.dir.join(name);
            let digest = sha256_file(&mut self.open(name)?)
                .map_err(|error| StoreError::io("read", &path, error))?;
            if digest != expected.sha256 {
                return Err(StoreError::Damaged(path));
            }
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Result<File, StoreError> {
        let path = self.dir.join(name);
        let file = File::open(&path).map_err(|error| StoreError::io("open", &path, error))?;
        let length = file
            .metadata()
            .map_err(|error| StoreError::io("inspect", &path, error))?
            .len();
        if self.manifest.files.get(name).map(|expected| expected.size) != Some(length) {
            return Err(StoreError::Damaged(path));
        }
        Ok(file)
    }
}

/// A revision that is being made. Dropped without [`Self::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Staging {
    template: VmName,
    template_dir: PathBuf,
    dir: PathBuf,
    number: u32,
    /// Held so that a sweep can tell a build that runs from one that died.
    _lock: File,
    committed: bool,
}

impl Staging {
    pub(crate) fn begin(template: VmName, template_dir: PathBuf) -> Result<Self, StoreError> {
        let revisions = template_dir.join("revisions");
        fs::create_dir_all(&revisions)
            .map_err(|error| StoreError::io("create", &revisions, error))?;
        sweep(&template_dir)?;
        let number = numbers(&template_dir)?.last().map_or(1, |last| last + 1);
        let dir = template_dir.join(format!("staging-{number}"));
        fs::create_dir_all(&dir).map_err(|error| StoreError::io("create", &dir, error))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| StoreError::io("create", &lock_path, error))?;
        lock_exclusive(&lock, &lock_path)?;
        Ok(Self {
            template,
            template_dir,
            dir,
            number,
            _lock: lock,
            committed: false,
        })
    }

    /// Number of the revision to be.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where to put `root.img`, `vmlinux` and `initrd`; scratch files are removed at commit.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Seals the revision and makes it current. `manifest`'s number and files are filled in here.
    ///
    /// # Errors
    /// When a file is missing or cannot be synced; nothing has changed then.
    pub fn commit(mut self, mut manifest: Manifest) -> Result<Revision, StoreError> {
        manifest.revision = self.number;
        manifest.files.clear();
        for name in FILES {
            let path = self.dir.join(name);
            let mut file =
                File::open(&path).map_err(|error| StoreError::io("open", &path, error))?;
            let sha256 =
                sha256_file(&mut file).map_err(|error| StoreError::io("read", &path, error))?;
            file.sync_all()
                .map_err(|error| StoreError::io("sync", &path, error))?;
            let size = file
                .metadata()
                .map_err(|error| StoreError::io("inspect", &path, error))?
                .len();
            manifest
                .files
                .insert(name.to_owned(), ManifestFile { size, sha256 });
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
                .map_err(|error| StoreError::io("protect", &path, error))?;
        }
        self.remove_scratch()?;
        let path = self.dir.join("manifest.toml");
        fs::write(&path, manifest.to_toml())
            .map_err(|error| StoreError::io("write", &path, error))?;
        sync(&path)?;
        sync(&self.dir)?;
        let target = self
            .template_dir
            .join("revisions")
            .join(self.number.to_string());
        fs::rename(&self.dir, &target).map_err(|error| StoreError::io("move", &self.dir, error))?;
        self.committed = true;
        sync(&self.template_dir.join("revisions"))?;
        switch(&self.template_dir, self.number)?;
        Revision::load(self.template.clone(), target)
    }

    fn remove_scratch(&self) -> Result<(), StoreError> {
        for entry in
            fs::read_dir(&self.dir).map_err(|error| StoreError::io("list", &self.dir, error))?
        {
            let entry = entry.map_err(|error| StoreError::io("list", &self.dir, error))?;
            if FILES.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let path = entry.path();
            let removed = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| StoreError::io("remove", &path, error))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "an unfinished revision could not be removed");
        }
    }
}

/// Points `current` at a revision, atomically.
pub(crate) fn switch(template_dir: &Path, number: u32) -> Result<(), StoreError> {
    let temporary = template_dir.join(".current.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &temporary, error));
        }
        _ => {}
    }
    symlink(format!("revisions/{number}"), &temporary)
        .map_err(|error| StoreError::io("create", &temporary, error))?;
    let current = template_dir.join("current");
    fs::rename(&temporary, &current).map_err(|error| StoreError::io("switch", &current, error))?;
    sync(template_dir)
}

/// Numbers of the finished revisions, ascending.
pub(crate) fn numbers(template_dir: &Path) -> Result<Vec<u32>, StoreError> {
    let revisions = template_dir.join("revisions");
    let entries = match fs::read_dir(&revisions) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", &revisions, error)),
    };
    let mut numbers: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes what builds that died have left.
fn sweep(template_dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(template_dir)
        .map_err(|error| StoreError::io("list", template_dir, error))?
        .flatten()
    {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with("staging-") {
            continue;
        }
        let lock_path = path.join("lock");
        if let Ok(lock) = OpenOptions::new().write(true).open(&lock_path) {
            lock_exclusive(&lock, &lock_path)?;
        }
        fs::remove_dir_all(&path).map_err(|error| StoreError::io("remove", &path, error))?;
    }
    Ok(())
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::io("sync", path, error))
}
