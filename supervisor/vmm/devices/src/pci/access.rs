//! The two ways to configuration space: memory-mapped (ECAM, PCI Express base 7.2.2) and ports 0xcf8/0xcfc
//! (PCI 3.0, 3.2.2.3.2), which kernels probe before they know of the first.

use std::sync::Arc;

use super::PciRoot;
use crate::bus::BusDevice;

/// Configuration space of bus 0 in memory.
#[derive(Debug)]
pub struct Ecam {
    root: Arc<PciRoot>,
}

impl Ecam {
    /// Bytes: one bus of 32 devices with 8 functions of 4 KiB.
    pub const LEN: u64 = 1 << 20;

    /// Memory access to this root.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root }
    }

    fn split(offset: u64) -> Option<(u8, u16)> {
        let function = u8::try_from(offset >> 12).ok()?;
        let register = u16::try_from(offset & 0xfff).ok()?;
        Some((function, register))
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some((function, register)) = Self::split(offset) {
            self.root.config_read(function, register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((function, register)) = Self::split(offset) {
            self.root.config_write(function, register, data);
        }
    }
}

/// Configuration space of bus 0 through an address port and a data port.
#[derive(Debug)]
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: u32,
}

impl ConfigPorts {
    /// First port.
    pub const BASE: u64 = 0xcf8;
    /// Ports: four for the address, four for data.
    pub const LEN: u64 = 8;

    const ENABLE: u32 = 1 << 31;

    /// Port access to this root.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root, address: 0 }
    }

    /// The address port's value, for a snapshot.
    pub fn address(&self) -> u32 {
        self.address
    }

    /// Sets the address port as a guest's write does.
    pub fn set_address(&mut self, address: u32) {
        // Reserved bits read back as zero; kernels use that to recognise the mechanism.
        self.address = address & 0x80ff_fffc;
    }

    /// What a data access at `offset` (4 to 7) means under the address port's value.
    fn target(&self, offset: u64) -> Option<(u8, u16)> {
        let byte = u16::try_from(offset.checked_sub(4)?).ok()?;
        let [register, function, bus, _] = self.address.to_le_bytes();
        if self.address & Self::ENABLE == 0 || bus != 0 {
            return None;
        }
        Some((function, u16::from(register & 0xfc).saturating_add(byte)))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let Some((function, register)) = self.target(offset) {
            self.root.config_read(function, register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0
            && let Ok(address) = data.try_into()
        {
            self.set_address(u32::from_le_bytes(address));
        } else if let Some((function, register)) = self.target(offset) {
            self.root.config_write(function, register, data);
        }
    }
}
