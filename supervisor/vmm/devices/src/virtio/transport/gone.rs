//! What is behind a transport whose device was unplugged.

use crate::event_loop::{Ready, Registrar};
use crate::state::QueuePosition;
use crate::virtio::{ActivateError, Activation, VirtioDevice};

/// No device: has no queues and does nothing.
#[derive(Debug)]
pub(super) struct Gone;

impl VirtioDevice for Gone {
    fn device_type(&self) -> u32 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(
        &mut self,
        _activation: Activation,
        _registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        Ok(())
    }

    fn handle(&mut self, _token: u32, _ready: Ready, _registrar: &mut Registrar<'_>) {}

    fn positions(&self) -> Vec<QueuePosition> {
        Vec::new()
    }

    fn reset(&mut self, _registrar: &mut Registrar<'_>) {}
}
