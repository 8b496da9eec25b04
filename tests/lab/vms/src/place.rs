//! Where everything lies that VMs are made of: in the lab's memory.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::ours::Setup;
use crate::plan::STANDARD_KERNEL;

/// Bytes of the disk: more than the guest reads in any work, less than the lab's memory.
const DISK: u32 = 64 << 20;

/// Where everything lies in the lab's memory, so that no disk of this machine is waited for.
#[derive(Debug)]
pub struct Place {
    pub(crate) payload: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) kernel: PathBuf,
    /// There only for the bench.
    pub(crate) standard_kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) initrd_with_modules: PathBuf,
    pub(crate) disk: PathBuf,
    pub(crate) account: Option<(u32, u32)>,
}

impl Place {
    /// Copies the payload to memory, where `account` may use it.
    pub(crate) fn prepare(payload: &Path, account: Option<(u32, u32)>) -> Result<Self> {
        let folder = std::env::temp_dir().join("lab-vms");
        fs::create_dir_all(&folder)?;
        copy_tree(payload, &folder.join("payload"))?;
        let payload = folder.join("payload");
        let place = Self {
            program: payload.join("bin/casemate-vmm"),
            kernel: payload.join("guest/vmlinux"),
            standard_kernel: payload.join(STANDARD_KERNEL),
            initrd: payload.join("guest/initrd"),
            initrd_with_modules: payload.join("guest/initrd-with-modules"),
            disk: folder.join("disk"),
            payload,
            folder,
            account,
        };
        // Not zeros: some monitor might know a short way for those.
        let piece: Vec<u8> = (0..DISK / 4)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        fs::write(&place.disk, piece)?;
        fs::set_permissions(&place.folder, fs::Permissions::from_mode(0o755))?;
        Ok(place)
    }

    /// An empty folder that the account may write to.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        if let Some((user, group)) = self.account {
            std::os::unix::fs::chown(&path, Some(user), Some(group))?;
        }
        Ok(path)
    }

    /// One of our VMs with one vCPU and no network.
    pub(crate) fn setup<'a>(&'a self, cmdline: &'a str, memory_mib: u32) -> Setup<'a> {
        Setup {
            program: &self.program,
            kernel: &self.kernel,
            initrd: &self.initrd,
            disk: &self.disk,
            folder: &self.folder,
            cmdline,
            memory_mib,
            vcpus: 1,
            network: None,
            restore: None,
            account: self.account,
        }
    }
}

/// Zeroes become holes, as a template has them.
fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    const BLOCK: usize = 4096;
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let file = File::create(to)?;
    file.set_len(u64::try_from(bytes.len())?)?;
    for (number, block) in (0_u64..).zip(bytes.chunks(BLOCK)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, number * 4096)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            copy_sparse(&entry.path(), &target)?;
        }
    }
    Ok(())
}
