//! What a VM is made of: the content of `vms/NAME.toml`.

use serde::{Deserialize, Serialize};

use crate::{Label, VmName};

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
        }
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
