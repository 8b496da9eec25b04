//! A host's PCI device in the guest: its registers mapped through, everything that steers the host kept from it.
//!
//! * **Configuration space** is ours ([`plan`]): identity and class are the device's; BARs are where the guest wants
//!   them and the hardware's never move; of the capabilities only PCI Express (a copy that cannot be written) and MSI-X
//!   are shown. No ROM, no I/O ports, no extended capabilities. Of the command register only bus mastering is passed on,
//!   and whether the interrupt line may be used.
//! * **BARs** are mapped into the guest page by page, but for pages that hold the MSI-X table or its pending bits, which
//!   are trapped ([`fn@pieces`]).
//! * **Interrupts** come through [`Vectors`]: the hardware's vectors signal descriptors, the guest's own table decides
//!   what happens then. A device without MSI-X has its interrupt line instead, which the kernel connects by itself.
//!
//! Here is no system call: what the kernel does for us is behind [`Hardware`].

mod function;
mod hardware;
mod layout;
mod pieces;
#[cfg(test)]
mod tests;
mod vectors;

pub use function::VfioPci;
pub use hardware::{BarInfo, DeviceInfo, Hardware, Piece};
pub use layout::{Layout, MsixPlace, Unfit, plan};
pub use pieces::pieces;
pub use vectors::Vectors;
