//! The window memory's PCI device: enabled, and its BAR given to the person's account, whose compositor maps it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use nix::unistd::{Gid, Uid, chown};

/// PCI vendor and device number of the window memory ("CC", "WM").
const IDS: (&str, &str) = ("0x4343", "0x574d");

/// Enables the device and makes the session's runtime directory for account `user`.
pub(crate) fn run(user: &str) -> anyhow::Result<()> {
    let account = nix::unistd::User::from_name(user)
        .context("cannot read the accounts")?
        .with_context(|| format!("there is no account '{user}' in this template"))?;
    let runtime = PathBuf::from(format!("/run/user/{}", account.uid));
    fs::create_dir_all(&runtime).with_context(|| format!("cannot make {}", runtime.display()))?;
    give(&runtime, 0o700, account.uid, account.gid)?;
    let device = find(Path::new("/sys/bus/pci/devices"))?;
    fs::write(device.join("enable"), "1").context("cannot enable the window memory")?;
    for name in ["resource2", "resource2_wc"] {
        let path = device.join(name);
        if path.exists() {
            give(&path, 0o600, account.uid, account.gid)?;
        }
    }
    Ok(())
}

fn give(path: &Path, mode: u32, uid: Uid, gid: Gid) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    chown(path, Some(uid), Some(gid))
        .with_context(|| format!("cannot give {} to the user", path.display()))
}

fn find(devices: &Path) -> anyhow::Result<PathBuf> {
    let list =
        fs::read_dir(devices).with_context(|| format!("cannot list {}", devices.display()))?;
    for entry in list.flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if (read("vendor").trim(), read("device").trim()) == IDS {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("this VM has no window memory; its windows cannot be shown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_found_by_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for (name, vendor, device) in [
            ("0000:00:01.0", "0x1af4", "0x1042"),
            ("0000:00:05.0", "0x4343", "0x574d"),
        ] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(path.join("device"), format!("{device}\n")).unwrap();
        }
        assert!(find(dir.path()).unwrap().ends_with("0000:00:05.0"));
        assert!(find(&dir.path().join("0000:00:01.0")).is_err());
    }
}
