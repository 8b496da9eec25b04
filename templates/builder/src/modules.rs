//! Kernel modules: which others a module needs, and how to unpack one.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{BuildError, command::run};

/// Files of the modules and of everything that they need, in the order in which they must be loaded. `version_dir` is
/// `lib/modules/VERSION` with a `modules.dep` in it. Names that are built into the kernel are left out.
///
/// # Errors
/// When a module is neither a file nor built in.
pub fn resolve(version_dir: &Path, names: &[String]) -> Result<Vec<PathBuf>, BuildError> {
    let read = |file: &str| {
        fs::read_to_string(version_dir.join(file)).map_err(BuildError::io(format!(
            "cannot read {file} in {}",
            version_dir.display()
        )))
    };
    let dependencies = read("modules.dep")?;
    let mut by_name = HashMap::new();
    for line in dependencies.lines() {
        let Some((file, needs)) = line.split_once(':') else {
            continue;
        };
        by_name.insert(
            module_name(file),
            (file, needs.split_whitespace().collect::<Vec<_>>()),
        );
    }
    let builtin = read("modules.builtin")?;
    let built_in = |name: &str| builtin.lines().any(|file| module_name(file) == name);
    let mut order: Vec<PathBuf> = Vec::new();
    for name in names {
        let name = name.replace('-', "_");
        let Some((file, needs)) = by_name.get(&name) else {
            if built_in(&name) {
                continue;
            }
            return Err(BuildError::Unexpected(format!(
                "the kernel in {} has no module {name}",
                version_dir.display()
            )));
        };
        // modules.dep lists what a module needs nearest first; the farthest must be loaded first.
        for file in needs.iter().rev().chain([file]) {
            let path = version_dir.join(file);
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// Writes a module uncompressed to `target`.
///
/// # Errors
/// When it cannot be read or its compression is unknown.
pub fn decompress_module(source: &Path, target: &Path) -> Result<(), BuildError> {
    let tool = match source.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("ko") => {
            fs::copy(source, target)
                .map_err(BuildError::io(format!("cannot copy {}", source.display())))?;
            return Ok(());
        }
        _ => {
            return Err(BuildError::Unexpected(format!(
                "{} has an unknown compression",
                source.display()
            )));
        }
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" -dc < \"$1\" > \"$2\"", tool])
        .arg(source)
        .arg(target);
    run(&mut command, &mut |_| {})
}

/// `kernel/fs/ext4/ext4.ko.xz` is `ext4`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split('.').next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("modules.dep"),
            "k/ext4.ko: k/mbcache.ko k/jbd2.ko k/crc16.ko\nk/jbd2.ko: k/crc16.ko\nk/mbcache.ko:\nk/crc16.ko:\nk/virtio-rng.ko:\n",
        )
        .unwrap();
        fs::write(dir.path().join("modules.builtin"), "k/virtio_pci.ko\n").unwrap();
        let names = |list: &[&str]| {
            list.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let order = resolve(
            dir.path(),
            &names(&["virtio_pci", "jbd2", "ext4", "virtio_rng"]),
        )
        .unwrap();
        let files: Vec<_> = order
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            files,
            [
                "crc16.ko",
                "jbd2.ko",
                "mbcache.ko",
                "ext4.ko",
                "virtio-rng.ko"
            ]
        );
        assert!(resolve(dir.path(), &names(&["nonsense"])).is_err());
    }
}
