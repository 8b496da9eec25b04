//! A small initrd: busybox, some modules, one script that mounts the root and steps aside.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use crate::{BuildError, command::run, decompress_module, modules::resolve};

/// Where Debian's busybox-static puts the one program of an initrd.
const BUSYBOX: &str = "/usr/bin/busybox";

/// What an initrd is made of.
#[derive(Clone, Copy, Debug)]
pub struct InitrdSpec<'a> {
    /// `lib/modules/VERSION` with `modules.dep`.
    pub version_dir: &'a Path,
    /// Modules to load, in this order, dependencies are added.
    pub modules: &'a [String],
    /// The script that runs as `/init`, for busybox's shell.
    pub init: &'a str,
}

/// Writes an uncompressed initrd: the guest would only spend time unpacking it.
///
/// # Errors
/// When busybox, a module or the work directory is missing.
pub fn write_initrd(spec: InitrdSpec<'_>, work: &Path, target: &Path) -> Result<(), BuildError> {
    let tree = work.join("initrd-tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(BuildError::io("cannot clear the initrd tree"))?;
    }
    for dir in ["bin", "modules", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(tree.join(dir))
            .map_err(BuildError::io("cannot make the initrd tree"))?;
    }
    let busybox = tree.join("bin/busybox");
    if !Path::new(BUSYBOX).exists() {
        return Err(BuildError::MissingTool(
            "busybox".to_owned(),
            "busybox-static",
        ));
    }
    fs::copy(BUSYBOX, &busybox).map_err(BuildError::io(format!("cannot copy {BUSYBOX}")))?;
    symlink("busybox", tree.join("bin/sh"))
        .map_err(BuildError::io("cannot link the initrd's shell"))?;
    let mut order = String::new();
    for file in resolve(spec.version_dir, spec.modules)? {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let plain = name.trim_end_matches(".xz").trim_end_matches(".zst");
        decompress_module(&file, &tree.join("modules").join(plain))?;
        order.push_str(plain);
        order.push('\n');
    }
    fs::write(tree.join("modules/order"), order)
        .map_err(BuildError::io("cannot write the module list"))?;
    let init = tree.join("init");
    fs::write(&init, spec.init).map_err(BuildError::io("cannot write the initrd's init"))?;
    for path in [&busybox, &init] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(BuildError::io("cannot set a mode"))?;
    }
    File::create(target).map_err(BuildError::io(format!(
        "cannot create {}",
        target.display()
    )))?;
    let mut command = Command::new("sh");
    command
        .args([
            "-e",
            "-c",
            "cd \"$0\" && find . | sort | cpio --quiet -o -H newc -R 0:0 > \"$1\"",
        ])
        .arg(&tree)
        .arg(target);
    run(&mut command, &mut |_| {})
}
