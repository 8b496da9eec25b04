//! What a device is as the kernel tells it, and what we ask of the kernel.

use std::io;
use std::ops::Range;

use crate::pci::BarIndex;

/// A memory BAR of the hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarInfo {
    /// Which.
    pub bar: BarIndex,
    /// Bytes, from its region.
    pub len: u64,
    /// What of it may be mapped, as the kernel says: all, parts, or nothing.
    pub mappable: Vec<Range<u64>>,
}

/// What the kernel says of a device before it is given to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The first 256 bytes of configuration space.
    pub config: [u8; 256],
    /// Its BARs that are not empty, those of I/O ports included.
    pub bars: Vec<BarInfo>,
    /// MSI-X vectors that the kernel can deliver.
    pub vectors: u16,
    /// Whether the kernel can deliver its interrupt line.
    pub line: bool,
    /// Whether the kernel can bring it back into the state after power-on.
    pub resets: bool,
}

/// A part of a BAR that the guest reaches without us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of which BAR.
    pub bar: BarIndex,
    /// Bytes of the BAR: whole pages.
    pub range: Range<u64>,
}

/// The device while a guest has it. Dropping it gives the device back: the kernel ends bus mastering, interrupts and
/// DMA, and resets it.
pub trait Hardware: Send {
    /// Sets bus mastering in the device's own command register.
    ///
    /// # Errors
    /// The kernel's.
    fn set_bus_master(&mut self, on: bool) -> io::Result<()>;

    /// Lets the device use its interrupt line, or not. Only asked of a device without MSI-X.
    ///
    /// # Errors
    /// The kernel's.
    fn set_line(&mut self, on: bool) -> io::Result<()>;

    /// Reads registers of a BAR.
    ///
    /// # Errors
    /// The kernel's, for instance when the device has gone.
    fn read(&mut self, bar: BarIndex, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes registers of a BAR.
    ///
    /// # Errors
    /// Like [`Hardware::read`].
    fn write(&mut self, bar: BarIndex, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Shows a piece to the guest at `address`. Each piece has one place at a time.
    ///
    /// # Errors
    /// The kernel's; accesses then come to us, one by one.
    fn map(&mut self, piece: &Piece, address: u64) -> io::Result<()>;

    /// Ends [`Hardware::map`].
    fn unmap(&mut self, piece: &Piece);
}
