//! Warm images on disk: `warm/NUMBER/` in the data directory.
//!
//! ```text
//! root.qcow2   the overlay of the template's root image, as it was at that moment
//! private.img  the private volume, likewise
//! state        device state, sealed with the key
//! memory       RAM; mapped by those who run on it, so it is never written again
//! working-set  optional: the pages that the trial changed
//! image.json   written last, mode 0600: shape, key. Without it there is no image
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use casemate_storage::{Revision, Store};
use casemate_vm::{VmId, VmSpec};
use casemate_vmm_control::SnapshotKey;
use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::{durable, handover::Frozen, launch::Given, refusal::Refusal, volumes::StartVolumes};

const ROOT: &str = "root.qcow2";
const PRIVATE: &str = "private.img";
const STATE: &str = "state";
const MEMORY: &str = "memory";
const WORKING_SET: &str = "working-set";
const MANIFEST: &str = "image.json";

/// Longest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 16 * 1024;

/// What makes a folder an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Manifest {
    pub(super) shape: Shape,
    /// The VM that was saved.
    taken_from: VmId,
    key: SnapshotKey,
    working_set: bool,
}

/// A finished image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    folder: PathBuf,
    pub(super) manifest: Manifest,
}

/// An image that is being made. Dropped without [`Draft::commit`], it leaves nothing behind; what a crash leaves has no
/// manifest.
#[derive(Debug)]
pub(super) struct Draft {
    image: Image,
    committed: bool,
}

impl Image {
    /// Reads an image.
    pub(super) fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join(MANIFEST);
        if fs::metadata(&path)?.len() > MAX_MANIFEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            folder: folder.to_owned(),
            manifest: serde_json::from_slice(&fs::read(path)?)?,
        })
    }

    /// Everything that a VM needs to go on from here, its own copies of the volumes included. Blocks.
    pub(super) fn given(&self, store: &Store, revision: &Revision) -> Result<Given, Refusal> {
        let open = |name: &str| {
            File::open(self.folder.join(name))
                .map_err(|error| Refusal::io("a warm image lacks a file", &error))
        };
        let overlay = store.throwaway_copy(&self.folder.join(ROOT))?;
        let private = store.throwaway_copy(&self.folder.join(PRIVATE))?;
        let working_set = self.manifest.working_set.then(|| open(WORKING_SET));
        let frozen = Frozen {
            state: open(STATE)?,
            memory: open(MEMORY)?,
            working_set: working_set.transpose()?,
            key: self.manifest.key.clone(),
            taken_from: self.manifest.taken_from,
        };
        Ok(Given {
            volumes: StartVolumes::of(revision, overlay, private.into())?,
            frozen: Some(frozen),
        })
    }

    /// When it was finished.
    pub(super) fn made(&self) -> io::Result<std::time::SystemTime> {
        fs::metadata(self.folder.join(MANIFEST))?.modified()
    }

    /// Removes it; VMs that run on it keep what they have open. The manifest goes first: a half-removed image is none.
    pub(super) fn remove(&self) -> io::Result<()> {
        durable::remove(&self.folder.join(MANIFEST))?;
        fs::remove_dir_all(&self.folder)
    }
}

impl Draft {
    /// Makes a folder with fresh volumes, and what a VM needs to boot from them. Blocks.
    pub(super) fn begin(
        store: &Store,
        folder: PathBuf,
        revision: &Revision,
        spec: &VmSpec,
        shape: Shape,
        key: SnapshotKey,
    ) -> Result<(Self, Given), Refusal> {
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| Refusal::io("no folder for a warm image", &error))?;
        let manifest = Manifest {
            shape,
            taken_from: VmId(0),
            key,
            working_set: false,
        };
        let draft = Self {
            image: Image { folder, manifest },
            committed: false,
        };
        let overlay = store.overlay_at(revision, &draft.path(ROOT))?;
        let private = store.private_at(&draft.path(PRIVATE), spec.private_mib)?;
        let given = Given {
            volumes: StartVolumes::of(revision, overlay, private.into())?,
            frozen: None,
        };
        Ok((draft, given))
    }

    /// The two empty files of a snapshot: state, memory.
    pub(super) fn snapshot_files(&self) -> io::Result<[File; 2]> {
        Ok([self.empty(STATE)?, self.empty(MEMORY)?])
    }

    /// The empty file of a working set.
    pub(super) fn working_set_file(&self) -> io::Result<File> {
        self.empty(WORKING_SET)
    }

    /// Nobody writes any more: the VM that was saved has ended. Returns what is there to be tried. Blocks.
    pub(super) fn freeze(&mut self, taken_from: VmId) -> io::Result<Image> {
        for name in [ROOT, PRIVATE, STATE, MEMORY] {
            self.protect(name)?;
        }
        self.image.manifest.taken_from = taken_from;
        Ok(self.image.clone())
    }

    /// Makes it an image. Blocks.
    pub(super) fn commit(mut self, working_set: bool) -> io::Result<()> {
        if working_set {
            self.protect(WORKING_SET)?;
        } else {
            durable::remove(&self.path(WORKING_SET))?;
        }
        self.image.manifest.working_set = working_set;
        let text = serde_json::to_string(&self.image.manifest).map_err(io::Error::other)?;
        durable::replace(&self.path(MANIFEST), &text)?;
        self.committed = true;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.image.folder.join(name)
    }

    fn empty(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(name))
    }

    /// On disk, and not to be opened for writing by mistake.
    fn protect(&self, name: &str) -> io::Result<()> {
        let file = File::open(self.path(name))?;
        file.sync_all()?;
        file.set_permissions(Permissions::from_mode(0o400))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_dir_all(&self.image.folder)
        {
            tracing::warn!(folder = %self.image.folder.display(), %error, "an unfinished warm image stays until the next start");
        }
    }
}
