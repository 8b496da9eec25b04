//! Interrupts of an assigned device on their way to the guest.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::event_loop::{EventLoop, Interest, Ready, Registrar, Subscriber, SubscriberId};
use crate::lock;
use crate::pci::Msix;

/// One descriptor per MSI-X vector of the hardware. What comes on it is a signal of the same vector of the guest's
/// table, which masks, holds pending or sends it: nothing is lost while the guest has a vector masked, and a storm on
/// one vector is one signal a turn of the loop.
#[derive(Debug)]
pub struct Vectors {
    descriptors: Vec<EventFd>,
    msix: Arc<Msix>,
}

impl Vectors {
    /// Descriptors for all vectors of `msix`.
    ///
    /// # Errors
    /// When the kernel has no more descriptors.
    pub fn new(msix: Arc<Msix>) -> io::Result<Self> {
        let descriptors = (0..msix.len())
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC))
            .collect::<io::Result<_>>()?;
        Ok(Self { descriptors, msix })
    }

    /// What the hardware is to signal, by vector.
    pub fn descriptors(&self) -> &[EventFd] {
        &self.descriptors
    }

    /// Begins to pass interrupts on, on the thread of `event_loop`.
    ///
    /// # Errors
    /// When a descriptor cannot be watched.
    pub fn watch(self, event_loop: &EventLoop) -> io::Result<SubscriberId> {
        let vectors = Arc::new(std::sync::Mutex::new(self));
        let id = event_loop.add(Arc::clone(&vectors));
        let mut registrar = event_loop.registrar(id);
        for (token, descriptor) in (0..).zip(&lock(&vectors).descriptors) {
            registrar.add(&descriptor.as_raw_fd(), token, Interest::Read)?;
        }
        Ok(id)
    }
}

impl Subscriber for Vectors {
    fn handle(&mut self, token: u32, _ready: Ready, _registrar: &mut Registrar<'_>) {
        let descriptor = usize::try_from(token)
            .ok()
            .and_then(|vector| self.descriptors.get(vector));
        if let (Some(descriptor), Ok(vector)) = (descriptor, u16::try_from(token))
            && descriptor.read().is_ok()
        {
            self.msix.signal(vector);
        }
    }
}
