//! What the root asks of a function.

use super::{BarIndex, Configuration};

/// One PCI function, shared as `Arc<Mutex<dyn PciFunction>>`; all calls come from vCPU threads with its lock held.
pub trait PciFunction: Send {
    /// Its configuration space. The root reads BARs and the command register from it after every write.
    fn configuration(&mut self) -> &mut Configuration;

    /// Reads configuration space. The access is aligned, of 1, 2 or 4 bytes and inside the 256 bytes of the header.
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.configuration().read(offset, data);
    }

    /// Writes configuration space; same accesses as [`PciFunction::config_read`].
    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.configuration().write(offset, data);
    }

    /// Reads from a BAR; `data` comes filled with ones. Offset plus length lies in the BAR.
    fn bar_read(&mut self, bar: BarIndex, offset: u64, data: &mut [u8]);

    /// Writes to a BAR. Offset plus length lies in the BAR.
    fn bar_write(&mut self, bar: BarIndex, offset: u64, data: &[u8]);

    /// The BAR is now decoded at this guest address, or no longer decoded. Alternates: an address is always taken back
    /// before another one is given.
    fn bar_moved(&mut self, bar: BarIndex, address: Option<u64>);
}
