//! Makes template revisions out of recipes.
//!
//! A recipe is data (`templates/NAME/recipe.toml`). A build is: base system by mmdebstrap (cached by the digest of the
//! recipe), kernel (cached by version), our programs, one ext4 image, one small initrd; staged in the store, sealed,
//! made current. Nothing of the host is changed, and an interrupted build leaves only its caches.
//!
//! It runs as the user: mmdebstrap in a user namespace and the assembly under `fakeroot`; as root (a build machine)
//! both are left out. Thin: it needs a Debian host, for the keyring and for `apt-get download` of the kernel.
#![deny(missing_docs)]

mod assemble;
mod base;
mod build;
mod cache;
mod command;
mod guest_files;
mod initrd;
mod kernel;
mod modules;
mod recipe;
mod sparse;

pub use build::{BuildOptions, Progress, build};
pub use command::BuildError;
pub use initrd::{InitrdSpec, write_initrd};
pub use kernel::{
    KERNEL_SERIES, KernelFiles, extract_vmlinux, fetch_cloud_kernel, fetch_kernel, newest_package,
};
pub use modules::{decompress_module, resolve};
pub use recipe::Recipe;
