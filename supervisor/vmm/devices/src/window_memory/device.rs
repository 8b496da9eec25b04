//! The function: identity, one BAR, no behaviour of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::SlotMapper;
use crate::pci::{
    BarIndex, Configuration, ConfigurationError, Identity, PciFunction, VENDOR_CASEMATE,
};
use crate::state::{FunctionState, StateError};
use crate::throttle::Throttle;

/// PCI device number ("WM"), under [`VENDOR_CASEMATE`].
pub const DEVICE_WINDOW_MEMORY: u16 = 0x574d;

/// Memory controller, other.
const CLASS: u32 = 0x05_80_00;

/// The function.
pub struct WindowMemory {
    configuration: Configuration,
    mapper: Arc<dyn SlotMapper>,
    mapped: bool,
    warnings: Throttle,
}

impl fmt::Debug for WindowMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WindowMemory")
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

impl WindowMemory {
    /// A function whose BAR2 is `len` bytes of memory that `mapper` can map.
    ///
    /// # Errors
    /// When `len` is not a power of two of at least a page.
    pub fn new(len: u64, mapper: Arc<dyn SlotMapper>) -> Result<Self, ConfigurationError> {
        let mut configuration = Configuration::new(Identity {
            vendor: VENDOR_CASEMATE,
            device: DEVICE_WINDOW_MEMORY,
            class: CLASS,
            revision: 1,
            subsystem: (VENDOR_CASEMATE, DEVICE_WINDOW_MEMORY),
        });
        configuration.add_bar(BarIndex::Bar2, len, true)?;
        // No driver will claim the function and enable it; kernels keep what firmware enabled.
        configuration.enable_memory();
        Ok(Self {
            configuration,
            mapper,
            mapped: false,
            warnings: Throttle::default(),
        })
    }
}

impl PciFunction for WindowMemory {
    fn configuration(&mut self) -> &mut Configuration {
        &mut self.configuration
    }

    // An access comes here only when the memory could not be mapped.
    fn bar_read(&mut self, _bar: BarIndex, _offset: u64, _data: &mut [u8]) {}
    fn bar_write(&mut self, _bar: BarIndex, _offset: u64, _data: &[u8]) {}

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

    fn bar_moved(&mut self, _bar: BarIndex, address: Option<u64>) {
        if std::mem::take(&mut self.mapped) {
            self.mapper.unmap();
        }
        let Some(address) = address else {
            return;
        };
        match self.mapper.map(address) {
            Ok(()) => self.mapped = true,
            // The guest moves the BAR as often as it likes.
            Err(error) if self.warnings.allows(Instant::now()) => {
                warn!(address, %error, "window memory could not be mapped");
            }
            Err(_) => {}
        }
    }
}
