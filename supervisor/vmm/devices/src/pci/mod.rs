//! PCI bus 0: configuration space, the root with its two access mechanisms, MSI-X.
//!
//! No bridges, no multi-function devices, no I/O BARs, no INTx: 31 functions beside the host bridge are enough.

mod host;

pub use host::{MsiMessage, MsiRouter, NotifyRegistrar, RouteId};
