//! What the root asks of a function.

use super::{BarIndex, Configuration};
use crate::state::{FunctionState, StateError};

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

    /// What a snapshot keeps of it, while no vCPU runs and no event loop handles anything. `None` when it cannot be
    /// saved, as a device of the host's cannot.
    fn save(&mut self) -> Option<FunctionState>;

    /// Takes up a saved state: on a function that is new, before any vCPU runs and after KVM's interrupt controllers have
    /// theirs. The root moves BARs afterwards.
    ///
    /// # Errors
    /// [`StateError`]; the function is then good for nothing.
    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError>;

    /// The BAR is now decoded at this guest address, or no longer decoded. Alternates: an address is always taken back
    /// before another one is given.
    fn bar_moved(&mut self, bar: BarIndex, address: Option<u64>);

    /// It was taken out of its slot: stops all work and gives up what it holds. Called once, with all BARs taken back;
    /// accesses that had begun before may still come and must do nothing any more. Nothing to do by default.
    fn removed(&mut self) {}
}
