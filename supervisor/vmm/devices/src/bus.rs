//! Address ranges of memory-mapped or port I/O, and the devices behind them.
//!
//! A vmm has two: one for memory, one for ports. What no device claims reads as all ones and swallows writes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::lock;

/// A device behind an address range. `offset` counts from the start of the range; offset plus length lies inside of it.
/// Lengths are what the guest used, normally 1, 2, 4 or 8: a device answers any other without panicking.
pub trait BusDevice: Send {
    /// Fills `data`; it comes filled with ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a range was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Empty, or past the end of the address space.
    #[error("range of {len:#x} bytes at {base:#x} is empty or wraps")]
    Range {
        /// First address.
        base: u64,
        /// Bytes.
        len: u64,
    },
    /// Another device is there.
    #[error("range of {len:#x} bytes at {base:#x} overlaps another device")]
    Overlap {
        /// First address.
        base: u64,
        /// Bytes.
        len: u64,
    },
}

struct Entry {
    last: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// Devices by address. Shared by all vCPU threads; the map's own lock is never held while a device works, so that
/// a device may move ranges (a BAR) from inside an access.
#[derive(Default)]
pub struct Bus {
    entries: RwLock<BTreeMap<u64, Entry>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        formatter
            .debug_map()
            .entries(entries.iter().map(|(base, entry)| (base, entry.last)))
            .finish()
    }
}

impl Bus {
    /// A bus with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a device at `base`, for `len` bytes.
    ///
    /// # Errors
    /// [`BusError`] when the range is not one or is taken, even in part.
    pub fn insert(
        &self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let last = len
            .checked_sub(1)
            .and_then(|rest| base.checked_add(rest))
            .ok_or(BusError::Range { base, len })?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // The only candidate is the last entry that starts at or before our end.
        let below = entries.range(..=last).next_back();
        if below.is_some_and(|(_, entry)| entry.last >= base) {
            return Err(BusError::Overlap { base, len });
        }
        entries.insert(base, Entry { last, device });
        Ok(())
    }

    /// Takes away the device whose range starts at `base`; returns whether there was one. An access that another
    /// thread has begun may still finish.
    pub fn remove(&self, base: u64) -> bool {
        self.entries
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&base)
            .is_some()
    }

    /// Reads at `address`. An access that no single device covers reads as all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address, data.len()) {
            lock(&device).read(offset, data);
        }
    }

    /// Writes at `address`. An access that no single device covers is ignored.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            lock(&device).write(offset, data);
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, Arc<Mutex<dyn BusDevice>>)> {
        let last = address.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (base, entry) = entries.range(..=address).next_back()?;
        (last <= entry.last).then(|| (address.saturating_sub(*base), Arc::clone(&entry.device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the low byte of the offset.
    struct Echo {
        written: Vec<(u64, usize)>,
    }

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset.to_le_bytes()[0]);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.written.push((offset, data.len()));
        }
    }

    fn echo() -> Arc<Mutex<Echo>> {
        Arc::new(Mutex::new(Echo {
            written: Vec::new(),
        }))
    }

    #[test]
    fn ranges_never_overlap() {
        let bus = Bus::new();
        bus.insert(0x1000, 0x100, echo()).expect("free");
        let overlap = |base, len| Err(BusError::Overlap { base, len });
        let range = |base, len| Err(BusError::Range { base, len });
        for (base, len, expected) in [
            (0x1000, 0x100, overlap(0x1000, 0x100)),
            (0xfff, 2, overlap(0xfff, 2)),
            (0x10ff, 1, overlap(0x10ff, 1)),
            (0, 0x2000, overlap(0, 0x2000)),
            (0x1040, 4, overlap(0x1040, 4)),
            (0, 0, range(0, 0)),
            (u64::MAX, 2, range(u64::MAX, 2)),
            (u64::MAX, 1, Ok(())),
            (0xff0, 0x10, Ok(())),
            (0x1100, 1, Ok(())),
        ] {
            assert_eq!(
                bus.insert(base, len, echo()),
                expected,
                "{base:#x}+{len:#x}"
            );
        }
        assert!(bus.remove(0x1000));
        assert!(!bus.remove(0x1000));
        bus.insert(0x1000, 0x100, echo()).expect("free again");
    }

    #[test]
    fn accesses_reach_the_device_that_covers_them() {
        let bus = Bus::new();
        let device = echo();
        bus.insert(0x1000, 0x10, device.clone()).expect("free");
        for (address, len, expected) in [
            (0x1000, 1, 0x00),
            (0x1004, 4, 0x04),
            (0x1008, 8, 0x08),
            (0x100f, 1, 0x0f),
            (0x100f, 2, 0xff),
            (0xfff, 1, 0xff),
            (0xfff, 2, 0xff),
            (0x1010, 1, 0xff),
            (u64::MAX, 8, 0xff),
        ] {
            let mut data = vec![0x55; len];
            bus.read(address, &mut data);
            assert_eq!(data, vec![expected; len], "{address:#x} {len}");
            bus.write(address, &data);
        }
        assert_eq!(lock(&device).written, [(0, 1), (4, 4), (8, 8), (15, 1)]);
    }
}
