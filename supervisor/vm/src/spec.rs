//! What a VM is made of: the content of `vms/NAME.toml`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Label, RamSize, Tag, VcpuCount, VmName};

/// An amount of memory or disk in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mebibytes(pub u32);

impl Mebibytes {
    /// The same amount in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * 1024 * 1024
    }
}

/// What outlives a VM's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmKind {
    /// Root is a throw-away overlay of the template, the private volume persists.
    App,
    /// Root and private volume are both thrown away; the VM itself goes when it stops.
    Disposable,
}

/// The definition of a VM, as a person writes it. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmSpec {
    /// Whether anything of the VM persists.
    #[serde(default = "VmSpec::default_kind")]
    pub kind: VmKind,
    /// The template whose current revision the VM starts from.
    pub template: VmName,
    /// The colour of its windows.
    pub label: Label,
    /// Guest memory.
    #[serde(default = "VmSpec::default_memory")]
    pub memory_mib: Mebibytes,
    /// Number of vCPUs, 1 to 8.
    #[serde(default = "VmSpec::default_vcpus")]
    pub vcpus: u8,
    /// Size of the private volume, fixed when the volume is made.
    #[serde(default = "VmSpec::default_private")]
    pub private_mib: Mebibytes,
    /// Template of the disposables that this VM opens; its own template when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_dispvm: Option<VmName>,
    /// Whether it has a sound card, over which it plays. What it records is silence but for a grant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audio: bool,
    /// What policy may call it, with others, by `@tag:`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<Tag>,
}

impl VmSpec {
    /// A definition with every default.
    pub fn new(kind: VmKind, template: VmName, label: Label) -> Self {
        Self {
            kind,
            template,
            label,
            memory_mib: Self::default_memory(),
            vcpus: Self::default_vcpus(),
            private_mib: Self::default_private(),
            default_dispvm: None,
            audio: false,
            tags: BTreeSet::new(),
        }
    }

    /// Fewest MiB in which a stock distribution kernel and its initrd come up.
    const MIN_MEMORY: u32 = 128;
    /// Smallest private volume, in MiB: less does not hold a file system and its journal.
    const MIN_PRIVATE: u32 = 16;
    /// Largest private volume, in MiB.
    const MAX_PRIVATE: u32 = 16 * 1024 * 1024;
    /// Most tags of a VM: more than a person can keep in mind, few enough to go through at each call.
    const MAX_TAGS: u32 = 32;

    /// Checks the sizes and the number of tags.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        let ranges = [
            (
                "memory-mib",
                self.memory_mib.0,
                Self::MIN_MEMORY,
                Mebibytes::from(RamSize::MAX).0,
            ),
            (
                "vcpus",
                u32::from(self.vcpus),
                1,
                u32::from(VcpuCount::MAX.get()),
            ),
            (
                "private-mib",
                self.private_mib.0,
                Self::MIN_PRIVATE,
                Self::MAX_PRIVATE,
            ),
            (
                "number of tags",
                u32::try_from(self.tags.len()).unwrap_or(u32::MAX),
                0,
                Self::MAX_TAGS,
            ),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(InvalidSpec {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    fn default_kind() -> VmKind {
        VmKind::App
    }

    fn default_memory() -> Mebibytes {
        Mebibytes(512)
    }

    fn default_vcpus() -> u8 {
        1
    }

    fn default_private() -> Mebibytes {
        Mebibytes(2048)
    }
}

/// A size of a definition that no VM can have, or too many tags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}, it must be {min} to {max}")]
pub struct InvalidSpec {
    /// The key in the definition.
    pub key: &'static str,
    /// What it says.
    pub value: u32,
    /// The least it may say.
    pub min: u32,
    /// The most it may say.
    pub max: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let good = VmSpec::new(VmKind::App, "debian-12".parse().unwrap(), Label::Blue);
        assert_eq!(good.check(), Ok(()));
        let change = |change: fn(&mut VmSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            spec.check().err().map(|invalid| invalid.key)
        };
        assert_eq!(change(|spec| spec.memory_mib.0 = 0), Some("memory-mib"));
        assert_eq!(
            change(|spec| spec.memory_mib.0 = u32::MAX),
            Some("memory-mib")
        );
        assert_eq!(change(|spec| spec.vcpus = 0), Some("vcpus"));
        assert_eq!(change(|spec| spec.vcpus = 9), Some("vcpus"));
        assert_eq!(change(|spec| spec.private_mib.0 = 15), Some("private-mib"));
        let many = |spec: &mut VmSpec| {
            spec.tags = (0..33)
                .filter_map(|n| format!("t{n}").parse().ok())
                .collect();
        };
        assert_eq!(change(many), Some("number of tags"));
    }
}
