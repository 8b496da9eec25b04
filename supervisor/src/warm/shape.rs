//! What a warm image is of: only a VM that is the same in all of it can go on from it.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use casemate_storage::Revision;
use casemate_vm::{Mebibytes, VmName, VmSpec};
use serde::{Deserialize, Serialize};

/// The machine, its template's revision, and the program that ran it. The devices and their order are the same for every
/// VM of one build, but for the sound card.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Shape {
    pub(super) template: VmName,
    pub(super) revision: u32,
    /// Digest of the revision's root image: a template that was removed and built anew begins with the same numbers.
    root: String,
    memory_mib: u32,
    vcpus: u8,
    private_mib: u32,
    audio: bool,
    vmm: Build,
}

/// Tells one file of a program from the next. The vmm itself compares more, and refuses what is of another build or host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Build {
    device: u64,
    inode: u64,
    length: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Shape {
    /// The shape that a VM has when it starts now.
    pub(super) fn of(spec: &VmSpec, revision: &Revision, vmm: Build) -> Self {
        let root = revision.manifest.files.get("root.img");
        Self {
            template: revision.template.clone(),
            revision: revision.number,
            root: root.map_or_else(String::new, |root| root.sha256.0.clone()),
            memory_mib: spec.memory_mib.0,
            vcpus: spec.vcpus,
            private_mib: spec.private_mib.0,
            audio: spec.audio,
            vmm,
        }
    }

    /// Whether a VM of this template could still have this shape.
    pub(super) fn is_of(&self, revision: &Revision, vmm: Build) -> bool {
        let root = revision.manifest.files.get("root.img");
        self.template == revision.template
            && self.revision == revision.number
            && root.is_some_and(|root| root.sha256.0 == self.root)
            && self.vmm == vmm
    }

    pub(super) fn memory(&self) -> Mebibytes {
        Mebibytes(self.memory_mib)
    }
}

impl Build {
    pub(super) fn of(program: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(program)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        })
    }
}
