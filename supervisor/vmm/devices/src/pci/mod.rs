//! PCI bus 0: configuration space, the root with its two access mechanisms, MSI-X.
//!
//! No bridges, no multi-function devices, no INTx: 31 functions beside the host bridge are enough. BARs of ports are for
//! doorbells only: a guest's write to a port costs the host less than one to memory, which has to be decoded first.
//!
//! A vmm makes a [`PciRoot`] over its buses, adds functions, and puts [`Ecam`] on the memory bus and
//! [`ConfigPorts`] on the port bus. From then on BARs follow what the guest writes.

mod access;
mod bar;
mod configuration;
mod function;
mod host;
mod host_bridge;
mod hot_plug;
mod msix;
mod root;

pub use access::{ConfigPorts, Ecam};
pub use bar::{BarIndex, BarKind};
pub use configuration::{Configuration, ConfigurationError, Identity};
pub use function::PciFunction;
pub use host::{MsiMessage, MsiRouter, NotifyRegistrar, RouteId};
pub use hot_plug::{Ejected, HotPlug, NotRemovable};
pub use msix::{MAX_VECTORS, Msix, NO_VECTOR};
pub use root::{PciError, PciRoot, Slot};

/// PCI vendor number of the functions that only Casemate has ("CC").
pub const VENDOR_CASEMATE: u16 = 0x4343;
