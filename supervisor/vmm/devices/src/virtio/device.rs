//! What the transport and a virtio device promise each other.

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::ActiveQueue;
use crate::event_loop::{Ready, Registrar, Subscriber};
use crate::state::{QueuePosition, StateError};

/// Guest memory; a clone is another handle of the same memory.
pub type Memory = Arc<GuestMemoryMmap>;

/// How a device speaks to its driver. One object per queue; after a reset the objects of the activation before it
/// are dead and do nothing, so a device may keep one too long without harm.
pub trait Interrupt: Send + Sync {
    /// The queue of this object has used buffers.
    fn signal(&self);
    /// The device's configuration space changed. The same whichever queue's object is used.
    fn config_changed(&self);
    /// The device cannot go on until the driver resets it (DEVICE_NEEDS_RESET): its rings are broken.
    /// The same whichever queue's object is used.
    fn needs_reset(&self);
}

/// What a device gets when its driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: Memory,
    /// The first of [`VirtioDevice::queue_sizes`], in that order, checked to lie in guest memory: at least
    /// [`VirtioDevice::queues_needed`] and at most [`VirtioDevice::queues_possible`].
    pub queues: Vec<ActiveQueue>,
    /// Negotiated features: a subset of those offered, VERSION_1 always among them.
    pub features: u64,
}

impl Activation {
    /// The queues as an array.
    ///
    /// # Errors
    /// [`ActivateError::Queues`] when there are not `N`: a bug of the transport or the device.
    pub fn queues_exactly<const N: usize>(self) -> Result<[ActiveQueue; N], ActivateError> {
        let got = self.queues.len();
        self.queues
            .try_into()
            .map_err(|_| ActivateError::Queues { got, expected: N })
    }
}

/// A device could not start; the transport reports DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// A descriptor could not be watched.
    #[error("cannot watch a descriptor of the device")]
    Register(#[from] io::Error),
    /// The device was activated with another number of queues than it has.
    #[error("{got} queues instead of {expected}")]
    Queues {
        /// What came.
        got: usize,
        /// What the device has.
        expected: usize,
    },
}

/// A virtio device, seen from its transport and its event loop.
///
/// It is shared as `Arc<Mutex<dyn VirtioDevice>>`: vCPU threads take the lock for configuration, activation and
/// reset, the loop's thread for [`VirtioDevice::handle`].
pub trait VirtioDevice: Send {
    /// The virtio device number (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// The largest size of each queue, in order: powers of two of at most [`super::MAX_QUEUE_SIZE`]. Constant.
    fn queue_sizes(&self) -> &[u16];

    /// How many of the queues, from the first, a driver that negotiated `features` has to set up: all, by default.
    fn queues_needed(&self, _features: u64) -> usize {
        self.queue_sizes().len()
    }

    /// How many the driver may set up, from the first: no more than it has to, by default.
    fn queues_possible(&self, features: u64) -> usize {
        self.queues_needed(features)
    }

    /// Features offered. The transport adds VERSION_1; RING_EVENT_IDX and RING_INDIRECT_DESC are the device's choice,
    /// and the transport switches a queue to event indexes when they were negotiated. Constant.
    fn features(&self) -> u64;

    /// Reads device configuration; what lies outside of it reads as zero. `offset` and length are the guest's.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes device configuration; ignored by default. `offset` and length are the guest's.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready (DRIVER_OK) and the transport has checked the queues. Only called on a device that is
    /// new or reset. Registers the kick descriptors of the queues and any others.
    ///
    /// # Errors
    /// [`ActivateError`]; the transport then calls [`VirtioDevice::reset`].
    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError>;

    /// A registered descriptor became ready. May still be called once after a reset. Never panics and never loops
    /// without bound, whatever is in the queues: see [`ActiveQueue`] for one turn's worth of work.
    fn handle(&mut self, token: u32, ready: Ready, registrar: &mut Registrar<'_>);

    /// Finishes what is in flight and writes out what it holds back, before a snapshot; nothing by default. Called on
    /// its loop's thread while no vCPU runs. Until that thread handles something again the device starts nothing.
    ///
    /// # Errors
    /// The host's; there is then no snapshot.
    fn quiesce(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// How far it is in its queues, in the order of activation; empty when it is not active or its rings are broken.
    /// Called while no vCPU runs and no event loop handles anything.
    fn positions(&self) -> Vec<QueuePosition>;

    /// What a snapshot keeps of it besides its queues: nothing by default.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes up what [`VirtioDevice::save`] gave, on a new device and before its activation. Afterwards all its queues
    /// are kicked once.
    ///
    /// # Errors
    /// [`StateError`] when this is not a state that the device can have here.
    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        if saved.is_empty() {
            Ok(())
        } else {
            Err(StateError::Unfit("it keeps no state of its own"))
        }
    }

    /// Finishes or drops work in flight, removes descriptors from the loop and forgets the queues.
    /// Afterwards no guest memory is touched until the next activation. May be called when not active.
    fn reset(&mut self, registrar: &mut Registrar<'_>);
}

impl Subscriber for dyn VirtioDevice {
    fn handle(&mut self, token: u32, ready: Ready, registrar: &mut Registrar<'_>) {
        VirtioDevice::handle(self, token, ready, registrar);
    }
}
