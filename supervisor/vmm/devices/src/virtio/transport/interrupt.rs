//! How a device's signals become MSI-X vectors. Shared between the transport (vCPU threads) and the device (a loop's
//! thread), hence atomics; the MSI-X state has its own lock, the last in the order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use tracing::debug;

use super::status::NEEDS_RESET;
use crate::pci::{Msix, NO_VECTOR};
use crate::state::{StateError, VirtioState};
use crate::virtio::Interrupt;

/// Bits of the interrupt status register (virtio 1.2, 4.1.4.5).
const STATUS_QUEUE: u8 = 1;
const STATUS_CONFIG: u8 = 2;

/// Interrupt registers of one function.
#[derive(Debug)]
pub(super) struct InterruptState {
    msix: Msix,
    status: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    needs_reset: AtomicBool,
    generation: AtomicU8,
}

impl InterruptState {
    pub(super) fn new(msix: Msix, queues: usize) -> Self {
        Self {
            msix,
            status: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            needs_reset: AtomicBool::new(false),
            generation: AtomicU8::new(0),
        }
    }

    pub(super) fn msix(&self) -> &Msix {
        &self.msix
    }

    /// The interrupt status register; reading it clears it.
    pub(super) fn take_status(&self) -> u8 {
        self.status.swap(0, Ordering::AcqRel)
    }

    /// Changes with every change of device configuration.
    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The vector of configuration changes.
    pub(super) fn config_vector(&self) -> &AtomicU16 {
        &self.config_vector
    }

    /// The vector of a queue, if there is that queue.
    pub(super) fn queue_vector(&self, queue: u16) -> Option<&AtomicU16> {
        self.queue_vectors.get(usize::from(queue))
    }

    /// Sets a vector register; a vector that does not exist becomes "none", which is how the driver learns of it.
    pub(super) fn assign(&self, register: &AtomicU16, vector: u16) {
        let exists = usize::from(vector) < self.msix.len();
        register.store(if exists { vector } else { NO_VECTOR }, Ordering::Release);
    }

    /// The device needs a reset; tells the driver.
    pub(super) fn needs_reset(&self) {
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            debug!("device needs reset");
            self.config_changed();
        }
    }

    /// Puts its registers into a state; the queues' vectors are saved with the queues.
    pub(super) fn save(&self, state: &mut VirtioState) {
        state.interrupt_status = self.status.load(Ordering::Acquire);
        state.generation = self.generation();
        state.config_vector = self.config_vector.load(Ordering::Acquire);
        state.vectors = self.msix.save();
        if self.is_broken() {
            state.status |= NEEDS_RESET;
        }
    }

    /// Takes up the registers that are not the driver's to write.
    pub(super) fn restore(&self, saved: &VirtioState) -> Result<(), StateError> {
        if saved.interrupt_status & !(STATUS_QUEUE | STATUS_CONFIG) != 0 {
            return Err(StateError::Unfit("its interrupt status is impossible"));
        }
        self.status.store(saved.interrupt_status, Ordering::Release);
        self.generation.store(saved.generation, Ordering::Release);
        let broken = saved.status & NEEDS_RESET != 0;
        self.needs_reset.store(broken, Ordering::Release);
        Ok(())
    }

    /// Sends the interrupt of a queue once more: one that was on its way when the snapshot was made may be lost, and one
    /// too many does no harm.
    pub(super) fn repeat(&self, queue: usize) {
        if let Some(register) = self.queue_vectors.get(queue) {
            self.msix.signal(register.load(Ordering::Acquire));
        }
    }

    pub(super) fn reset(&self) {
        self.needs_reset.store(false, Ordering::Release);
        self.status.store(0, Ordering::Release);
        for register in self.queue_vectors.iter().chain([&self.config_vector]) {
            register.store(NO_VECTOR, Ordering::Release);
        }
    }

    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(STATUS_CONFIG, &self.config_vector);
    }

    fn raise(&self, bit: u8, register: &AtomicU16) {
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.msix.signal(register.load(Ordering::Acquire));
    }
}

/// Whether an activation is still the current one.
#[derive(Clone, Debug)]
pub(super) struct Lease(Arc<AtomicBool>);

impl Lease {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What one queue's device side holds, for one activation.
#[derive(Debug)]
pub(super) struct QueueInterrupt {
    state: Arc<InterruptState>,
    lease: Lease,
    queue: usize,
}

impl QueueInterrupt {
    pub(super) fn new(state: &Arc<InterruptState>, lease: &Lease, queue: usize) -> Self {
        Self {
            state: Arc::clone(state),
            lease: lease.clone(),
            queue,
        }
    }
}

impl Interrupt for QueueInterrupt {
    fn signal(&self) {
        if self.lease.holds()
            && let Some(register) = self.state.queue_vectors.get(self.queue)
        {
            self.state.raise(STATUS_QUEUE, register);
        }
    }

    fn config_changed(&self) {
        if self.lease.holds() {
            self.state.config_changed();
        }
    }

    fn needs_reset(&self) {
        if self.lease.holds() {
            self.state.needs_reset();
        }
    }
}
