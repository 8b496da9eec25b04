//! The lab's own kernel for VMs in the lab.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use casemate_template_builder::{
    InitrdSpec, KernelFiles, fetch_cloud_kernel, fetch_kernel, write_initrd,
};

use super::cache_dir;

/// The lab's kernel, which templates boot too.
///
/// # Errors
/// When it cannot be had.
pub fn standard_kernel() -> Result<KernelFiles> {
    fetch_kernel(&cache_dir()?).context("the lab's kernel is missing")
}

/// The same kernel as it is built for clouds.
///
/// # Errors
/// When it cannot be had.
pub fn cloud_kernel() -> Result<KernelFiles> {
    fetch_cloud_kernel(&cache_dir()?).context("the cloud kernel is missing")
}

/// Puts `vmlinux` (ELF), `vmlinuz` (as packed) and an `initrd` with busybox, `init` as its script, and `modules` in the
/// order of `/modules/order`, into `folder`.
///
/// # Errors
/// When the kernel cannot be had or a module is missing.
pub fn lay_out_kernel(init: &str, modules: &[&str], folder: &Path) -> Result<()> {
    let kernel = standard_kernel()?;
    fs::copy(&kernel.vmlinux, folder.join("vmlinux"))?;
    fs::copy(&kernel.bzimage, folder.join("vmlinuz"))?;
    let modules: Vec<_> = modules.iter().map(|&name| name.to_owned()).collect();
    let spec = InitrdSpec {
        version_dir: &kernel.modules_dir,
        modules: &modules,
        init,
    };
    let work = tempfile::tempdir()?;
    write_initrd(spec, work.path(), &folder.join("initrd"))?;
    Ok(())
}
