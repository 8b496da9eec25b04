//! Owned resource: everything of Casemate that lies on disk and outlives a process.
//!
//! One [`Store`] is one directory, laid out as
//!
//! ```text
//! templates/NAME/current            symlink to revisions/N, replaced atomically
//! templates/NAME/revisions/N/       immutable: root.img, vmlinux, initrd, manifest.toml
//! templates/NAME/staging-*/         a revision being built; swept when nobody holds its lock
//! vms/NAME/private.img              the private volume, raw
//! warm/                             warm images, laid out by the supervisor
//! volatile/                         where throw-away volumes are made; they have no name, so nothing is ever left
//! ```
//!
//! The host never looks into an image that a guest could have written: types are explicit, sizes come from the
//! definition, and throw-away overlays are opened with their base given by descriptor.
#![deny(missing_docs)]

mod digest;
mod error;
mod frozen;
mod lock;
mod manifest;
mod revision;
mod store;
mod throwaway;

pub use digest::{Sha256, sha256_file};
pub use error::StoreError;
pub use manifest::{Manifest, ManifestFile};
pub use revision::{Revision, Staging};
pub use store::{LockedFile, Store, TemplateState};
