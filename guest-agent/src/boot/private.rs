//! The private volume: formatted when it is new, mounted on /rw, its home over /home.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::Command,
};

use anyhow::{Context, ensure};
use rustix::mount::{MountFlags, mount, mount_bind};

/// The second disk of every VM.
pub(crate) const DEVICE: &str = "/dev/vdb";

/// How much of a volume must be zero for it to count as new: more than any file system's first signature lies in.
const NEW: usize = 128 * 1024;

/// Mounts the private volume.
pub(crate) fn run() -> anyhow::Result<()> {
    if is_mounted("/home")? {
        return Ok(());
    }
    if is_new(Path::new(DEVICE))? {
        format(DEVICE)?;
    }
    fs::create_dir_all("/rw").context("cannot make /rw")?;
    if !is_mounted("/rw")? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        mount(DEVICE, "/rw", "ext4", flags, None)
            .with_context(|| format!("cannot mount {DEVICE} on /rw"))?;
    }
    fill_home(Path::new("/home"), Path::new("/rw/home"))?;
    mount_bind("/rw/home", "/home").context("cannot bind /rw/home over /home")
}

/// Whether a volume has never been written: whoever sees data there must not format over it.
fn is_new(device: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::with_capacity(NEW);
    File::open(device)
        .and_then(|file| file.take(NEW as u64).read_to_end(&mut start))
        .with_context(|| format!("cannot read {}", device.display()))?;
    Ok(start.iter().all(|byte| *byte == 0))
}

fn format(device: &str) -> anyhow::Result<()> {
    let status = Command::new("mkfs.ext4")
        .args([
            "-q",
            "-m",
            "0",
            "-L",
            "casemate-private",
            "-E",
            "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
            device,
        ])
        .status()
        .context("cannot run mkfs.ext4")?;
    ensure!(status.success(), "mkfs.ext4 failed on {device} ({status})");
    Ok(())
}

/// At first use the home of the template is copied; later ones keep what is there.
fn fill_home(template: &Path, home: &Path) -> anyhow::Result<()> {
    if home.exists() {
        return Ok(());
    }
    // Copied under another name first: a power cut must not leave half a home that counts as filled.
    let draft = home.with_file_name("home.new");
    let status = Command::new("cp")
        .arg("-a")
        .arg("--")
        .arg(template)
        .arg(&draft)
        .status()
        .context("cannot run cp")?;
    ensure!(
        status.success(),
        "cannot copy {} to {} ({status})",
        template.display(),
        draft.display()
    );
    fs::rename(&draft, home).with_context(|| format!("cannot make {}", home.display()))
}

fn is_mounted(place: &str) -> anyhow::Result<bool> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_untouched_volume_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, vec![0; 2 * NEW]).unwrap();
        assert!(is_new(&path).unwrap());
        let mut data = vec![0; 2 * NEW];
        data[1080] = 0x53;
        fs::write(&path, data).unwrap();
        assert!(!is_new(&path).unwrap());
    }

    #[test]
    fn a_home_is_filled_once() {
        let dir = tempfile::tempdir().unwrap();
        let (template, home) = (dir.path().join("template"), dir.path().join("home"));
        fs::create_dir_all(template.join("user")).unwrap();
        fs::write(template.join("user/.bashrc"), "new").unwrap();
        fill_home(&template, &home).unwrap();
        fs::write(home.join("user/.bashrc"), "mine").unwrap();
        fill_home(&template, &home).unwrap();
        assert_eq!(
            fs::read_to_string(home.join("user/.bashrc")).unwrap(),
            "mine"
        );
    }
}
