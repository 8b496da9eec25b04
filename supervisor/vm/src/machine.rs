//! Sizes of a machine that the vmm can build: parsed once, then true.

use serde::{Deserialize, Serialize};

use crate::Mebibytes;

/// Guest memory: 64 MiB, in which a stock kernel and its initrd come up, to 64 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Mebibytes", into = "Mebibytes")]
pub struct RamSize(Mebibytes);

impl RamSize {
    /// The least.
    pub const MIN: Self = Self(Mebibytes(64));
    /// The most.
    pub const MAX: Self = Self(Mebibytes(64 * 1024));

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0.bytes()
    }
}

/// Number of vCPUs: 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// One vCPU.
    pub const MIN: Self = Self(1);
    /// The most: APIC ids and topology leaves are laid out for them.
    pub const MAX: Self = Self(8);

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// A size that no machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMachine {
    /// Too little or too much memory.
    #[error("{0} MiB of memory; a VM has {min} to {max} MiB", min = RamSize::MIN.0.0, max = RamSize::MAX.0.0)]
    Ram(u32),
    /// No or too many vCPUs.
    #[error("{0} vCPUs; a VM has {min} to {max}", min = VcpuCount::MIN.0, max = VcpuCount::MAX.0)]
    Vcpus(u8),
}

impl TryFrom<Mebibytes> for RamSize {
    type Error = InvalidMachine;

    fn try_from(size: Mebibytes) -> Result<Self, InvalidMachine> {
        if (Self::MIN.0..=Self::MAX.0).contains(&size) {
            Ok(Self(size))
        } else {
            Err(InvalidMachine::Ram(size.0))
        }
    }
}

impl From<RamSize> for Mebibytes {
    fn from(size: RamSize) -> Self {
        size.0
    }
}

impl TryFrom<u8> for VcpuCount {
    type Error = InvalidMachine;

    fn try_from(count: u8) -> Result<Self, InvalidMachine> {
        if (Self::MIN.0..=Self::MAX.0).contains(&count) {
            Ok(Self(count))
        } else {
            Err(InvalidMachine::Vcpus(count))
        }
    }
}

impl From<VcpuCount> for u8 {
    fn from(count: VcpuCount) -> Self {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_bounds() {
        for (mib, good) in [
            (0, false),
            (63, false),
            (64, true),
            (65, true),
            (65_535, true),
            (65_536, true),
            (65_537, false),
            (u32::MAX, false),
        ] {
            assert_eq!(RamSize::try_from(Mebibytes(mib)).is_ok(), good, "{mib} MiB");
        }
        for count in 0..=u8::MAX {
            let good = (1..=8).contains(&count);
            assert_eq!(VcpuCount::try_from(count).is_ok(), good, "{count} vCPUs");
        }
        assert_eq!(RamSize::MAX.bytes(), 64 << 30);
        assert_eq!(
            InvalidMachine::Ram(1).to_string(),
            "1 MiB of memory; a VM has 64 to 65536 MiB"
        );
    }
}
