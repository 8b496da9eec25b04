//! What PCI devices ask of the hypervisor. The vmm implements these on KVM; tests implement them on vectors.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Names one interrupt route: one vector of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u32);

/// What a guest wrote into an entry of an MSI-X table. Both values are the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where the interrupt message is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// Delivers message-signalled interrupts. On KVM: one GSI of 24 or more and one irqfd per route, and
/// `KVM_SET_GSI_ROUTING` with the whole table on each update.
///
/// Masking is not its business: MSI-X state above it holds pending bits and calls [`MsiRouter::trigger`] only when
/// the vector is unmasked. Called from vCPU and loop threads, with interrupt state of one device locked: it must not
/// call back into a device.
pub trait MsiRouter: Send + Sync {
    /// Reserves a route, once per vector when a device is built. Nothing is routed yet. On any thread.
    ///
    /// # Errors
    /// When there are no more routes or descriptors.
    fn allocate(&self) -> io::Result<RouteId>;

    /// The guest programmed the vector. Only called when the message differs from the last one and the vector is
    /// unmasked and enabled, because it is costly on KVM; and only on vCPU threads, from accesses to the table.
    ///
    /// # Errors
    /// The kernel's; the vector then stays silent until the guest programs it anew.
    fn update(&self, route: RouteId, message: MsiMessage) -> io::Result<()>;

    /// Sends the interrupt of the last [`MsiRouter::update`].
    fn trigger(&self, route: RouteId);

    /// Takes a route back, on any thread: its device is gone. Nothing will be asked of it until it is allocated anew.
    fn release(&self, _route: RouteId) {}
}

/// Turns a guest's write to a port into a signal on a descriptor, without an exit to us. On KVM: an ioeventfd
/// without data match, of any length.
///
/// Called when a BAR is placed and, with the old port, when it is moved or its decoding is switched off.
pub trait NotifyRegistrar: Send + Sync {
    /// Begins to signal `kick` at writes to `port`.
    ///
    /// # Errors
    /// The kernel's; writes then reach the device as ordinary accesses, which work too, only slower.
    fn register(&self, port: u64, kick: &EventFd) -> io::Result<()>;

    /// Ends what [`NotifyRegistrar::register`] began with the same arguments.
    fn unregister(&self, port: u64, kick: &EventFd);
}
