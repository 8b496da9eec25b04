//! Finds the window memory and opens it: a PCI device's BAR in a VM, a file or descriptor in tests.
//!
//! It does not enable the device; root did that before this program started.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{
    memory::{self, WindowMemory},
    options::MemorySource,
};

const DEVICES: &str = "/sys/bus/pci/devices";
const VENDOR: u32 = 0x4343;
const DEVICE: u32 = 0x574d;

/// Opens and maps the window memory.
///
/// # Errors
/// When there is no such device or file, it cannot be opened for writing, or it is empty.
pub(crate) fn open(source: &MemorySource) -> anyhow::Result<WindowMemory> {
    let file = match source {
        MemorySource::Device => open_device(Path::new(DEVICES))?,
        MemorySource::Path(path) => open_file(path)
            .with_context(|| format!("cannot open the window memory {}", path.display()))?
            .into(),
        MemorySource::Descriptor(number) => memory::inherited(*number)
            .with_context(|| format!("no descriptor {number} was inherited"))?,
    };
    map(&file)
}

fn map(file: &OwnedFd) -> anyhow::Result<WindowMemory> {
    let size = rustix::fs::fstat(file)
        .context("cannot read the size of the window memory")?
        .st_size;
    let size = usize::try_from(size).context("the window memory has no valid size")?;
    if size == 0 {
        bail!("the window memory is empty");
    }
    WindowMemory::map(file, size).context("cannot map the window memory")
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn open_device(devices: &Path) -> anyhow::Result<OwnedFd> {
    let device = find_device(devices)
        .with_context(|| format!("cannot list {}", devices.display()))?
        .context("this machine has no window memory device (PCI 4343:574d)")?;
    if number(&device.join("enable"))? == 0 {
        bail!(
            "window memory device {} is not enabled; write 1 to its `enable` as root first",
            device.display()
        );
    }
    // Write combining suits a memory that is only written here; older kernels lack that file.
    for name in ["resource2_wc", "resource2"] {
        let path = device.join(name);
        match open_file(&path) {
            Ok(file) => return Ok(file.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        }
    }
    bail!("window memory device {} has no BAR 2", device.display())
}

fn find_device(devices: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(devices)? {
        let path = entry?.path();
        // A device that vanishes or cannot be read is not the one.
        let id = |name| number(&path.join(name)).ok();
        if id("vendor") == Some(VENDOR) && id("device") == Some(DEVICE) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// A number in a sysfs file, decimal or with `0x`.
fn number(path: &Path) -> anyhow::Result<u32> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .with_context(|| format!("{} is not a number", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(root: &Path, name: &str, vendor: &str, device: &str, enable: &str) -> PathBuf {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        for (file, text) in [("vendor", vendor), ("device", device), ("enable", enable)] {
            fs::write(path.join(file), format!("{text}\n")).unwrap();
        }
        path
    }

    #[test]
    fn the_device_is_found_among_others_and_must_be_enabled() {
        let root = tempfile::tempdir().unwrap();
        device(root.path(), "0000:00:01.0", "0x1af4", "0x1042", "1");
        assert!(open_device(root.path()).is_err());

        let ours = device(root.path(), "0000:00:07.0", "0x4343", "0x574d", "0");
        fs::write(ours.join("resource2"), [0; 4096]).unwrap();
        let refusal = open_device(root.path()).unwrap_err().to_string();
        assert!(refusal.contains("not enabled"), "{refusal}");

        fs::write(ours.join("enable"), "1\n").unwrap();
        let file = open_device(root.path()).unwrap();
        assert_eq!(map(&file).unwrap().len(), 4096);
    }

    #[test]
    fn an_empty_memory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("memory");
        fs::write(&path, []).unwrap();
        assert!(open(&MemorySource::Path(path)).is_err());
    }
}
