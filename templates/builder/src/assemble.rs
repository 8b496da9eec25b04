//! Puts base system, our files and modules into one ext4 image.

use std::{fs, path::Path, process::Command};

use crate::{
    BuildError,
    command::{is_root, run},
};

const SCRIPT: &str = include_str!("assemble.sh");

/// What goes into the image.
pub(crate) struct Parts<'a> {
    pub(crate) base: &'a Path,
    pub(crate) ours: &'a Path,
    pub(crate) modules: &'a Path,
    pub(crate) size_mib: u32,
}

/// Writes the root image and returns the list of installed packages.
pub(crate) fn root_image(
    parts: &Parts<'_>,
    work: &Path,
    image: &Path,
) -> Result<Vec<String>, BuildError> {
    let mut command = if is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new("fakeroot");
        command.arg("sh");
        command
    };
    command
        .args(["-c", SCRIPT, "assemble"])
        .args([parts.base, parts.ours, parts.modules, work, image])
        .arg(parts.size_mib.to_string())
        // mke2fs lives in /sbin, which is not on an ordinary user's path.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    run(&mut command, &mut |_| {})?;
    let packages = fs::read_to_string(work.join("packages"))
        .map_err(BuildError::io("cannot read the package list"))?;
    let mut packages: Vec<String> = packages.lines().map(str::to_owned).collect();
    packages.sort();
    Ok(packages)
}
