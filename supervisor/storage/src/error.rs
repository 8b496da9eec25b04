//! Why storage could not do what it was asked.

use std::{io, path::PathBuf};

/// An error of the store; its text names the file or template and what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No template of that name, or none of its revisions was finished.
    #[error(
        "there is no template '{0}'; `casemate template ls` lists those that exist, `casemate template build {0}` makes it"
    )]
    NoTemplate(String),
    /// A private volume exists already.
    #[error("'{0}' already has a private volume")]
    Exists(String),
    /// A VM has no private volume.
    #[error("'{0}' has no private volume; was its directory removed by hand?")]
    NoVolume(String),
    /// Another process holds the volume open for writing.
    #[error("the volume {0} is in use by another process")]
    Locked(PathBuf),
    /// The file system is full.
    #[error("no space left on the device that holds {0}; free some and try again")]
    NoSpace(PathBuf),
    /// A manifest that cannot be read.
    #[error("the manifest {path} is damaged: {what}")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why, with the line.
        what: String,
    },
    /// A file of a revision does not have the size or digest of its manifest.
    #[error("{0} differs from its manifest; roll back or rebuild the template")]
    Damaged(PathBuf),
    /// Anything else the file system said.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl StoreError {
    /// Wraps an I/O error, telling a full disk from the rest.
    pub(crate) fn io(verb: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded
        {
            return Self::NoSpace(path.to_owned());
        }
        Self::Io {
            verb,
            path: path.to_owned(),
            source,
        }
    }
}
