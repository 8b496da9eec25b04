//! What a template revision consists of, with the digest of each file.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Sha256, StoreError};

/// `manifest.toml` of a revision. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// Number of the revision.
    pub revision: u32,
    /// The revision that it was made from, absent when made from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// Seconds since 1970.
    pub created: u64,
    /// Kernel version, as `uname -r` says it in the guest.
    pub kernel: String,
    /// Kernel command line beyond what the supervisor adds for every VM.
    pub cmdline: String,
    /// `root.img`, `vmlinux`, `initrd`.
    pub files: BTreeMap<String, ManifestFile>,
    /// Installed packages, `name version`, sorted.
    pub packages: Vec<String>,
}

/// One file of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Length in bytes.
    pub size: u64,
    /// Digest of the content.
    pub sha256: Sha256,
}

impl Manifest {
    pub(crate) fn load(path: &Path) -> Result<Self, StoreError> {
        let text = fs::read_to_string(path).map_err(|error| StoreError::io("read", path, error))?;
        toml::from_str(&text).map_err(|error| StoreError::Manifest {
            path: path.to_owned(),
            what: error.to_string().trim().to_owned(),
        })
    }

    pub(crate) fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a manifest has only string keys and plain values")
    }
}
