//! The host bridge at 00:00.0: present because kernels look for it, does nothing.

use super::{BarIndex, Configuration, Identity, PciFunction, VENDOR_CASEMATE};
use crate::state::{FunctionState, StateError};

/// "HB".
const DEVICE: u16 = 0x4842;
const CLASS: u32 = 0x06_00_00;

#[derive(Debug)]
pub(super) struct HostBridge {
    configuration: Configuration,
}

impl HostBridge {
    pub(super) fn new() -> Self {
        Self {
            configuration: Configuration::new(Identity {
                vendor: VENDOR_CASEMATE,
                device: DEVICE,
                class: CLASS,
                revision: 0,
                subsystem: (0, 0),
            }),
        }
    }
}

impl PciFunction for HostBridge {
    fn configuration(&mut self) -> &mut Configuration {
        &mut self.configuration
    }
    fn bar_read(&mut self, _bar: BarIndex, _offset: u64, _data: &mut [u8]) {}
    fn bar_write(&mut self, _bar: BarIndex, _offset: u64, _data: &[u8]) {}
    fn bar_moved(&mut self, _bar: BarIndex, _address: Option<u64>) {}

    fn save(&mut self) -> Option<FunctionState> {
        Some(FunctionState {
            configuration: self.configuration.save(),
            virtio: None,
        })
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        match saved.virtio {
            None => self.configuration.restore(&saved.configuration),
            Some(_) => Err(StateError::Unfit("it is no virtio device")),
        }
    }
}
