//! The common configuration structure (virtio 1.2, 4.1.4.3): registers of negotiation and of queues. Pure: it says
//! what a write means, the transport does it.
//!
//! A register answers only to its own width (64-bit addresses also by halves). What does not exist reads as all
//! ones; registers of a queue that does not exist read as zero, its vector as "none".

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::interrupt::InterruptState;
use super::status::{FAILED, NEEDS_RESET, Phase, Status, Step};
use crate::pci::NO_VECTOR;
use crate::state::{QueueState, StateError, VirtioState};
use crate::virtio::Memory;

/// Bytes of the structure.
pub(super) const LEN: u32 = 0x38;

/// What the transport has to do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Reset,
    Activate,
}

/// One queue as the driver describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueRegisters {
    max_size: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }
}

/// The structure.
#[derive(Debug)]
pub(super) struct Common {
    offered: u64,
    accepted: u64,
    offered_select: u32,
    accepted_select: u32,
    status: Status,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl Common {
    pub(super) fn new(offered: u64, sizes: &[u16]) -> Self {
        Self {
            offered,
            accepted: 0,
            offered_select: 0,
            accepted_select: 0,
            status: Status::default(),
            queue_select: 0,
            queues: sizes.iter().copied().map(QueueRegisters::new).collect(),
        }
    }

    /// Puts its registers into a state.
    pub(super) fn save(&self, interrupts: &InterruptState, state: &mut VirtioState) {
        state.offered = self.offered;
        state.accepted = self.accepted;
        state.selectors = [self.offered_select, self.accepted_select];
        state.status = self.status.bits();
        state.queue_select = self.queue_select;
        state.queues = (0..)
            .zip(&self.queues)
            .map(|(index, queue)| QueueState {
                size: queue.size,
                enabled: queue.enabled,
                vector: interrupts
                    .queue_vector(index)
                    .map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire)),
                descriptors: queue.descriptors,
                driver: queue.driver,
                device: queue.device,
            })
            .collect();
    }

    /// Registers as a driver would have to write them to get to the saved ones, through the same checks.
    pub(super) fn restore(
        &mut self,
        interrupts: &InterruptState,
        saved: &VirtioState,
    ) -> Result<(), StateError> {
        if saved.offered != self.offered {
            return Err(StateError::Unfit("it offers other features"));
        }
        if saved.queues.len() != self.queues.len() {
            return Err(StateError::Unfit("it has another number of queues"));
        }
        [self.offered_select, self.accepted_select] = saved.selectors;
        self.accepted = saved.accepted;
        for (index, state) in (0..).zip(&saved.queues) {
            self.queue_select = index;
            self.write_word(interrupts, 0x18, state.size);
            self.write_word(interrupts, 0x1a, state.vector);
            self.write_address(0x20, u64::MAX, state.descriptors);
            self.write_address(0x28, u64::MAX, state.driver);
            self.write_address(0x30, u64::MAX, state.device);
            self.write_word(interrupts, 0x1c, state.enabled.into());
        }
        self.queue_select = saved.queue_select;
        self.write_word(interrupts, 0x10, saved.config_vector);
        // FAILED comes last, as it stops further steps; zero would be a reset.
        for status in [
            saved.status & !(NEEDS_RESET | FAILED),
            saved.status & !NEEDS_RESET,
        ] {
            if status != 0 {
                let _ = self.write_status(status);
            }
        }
        // Whatever was refused on the way is not as it was saved.
        let mut here = saved.clone();
        self.save(interrupts, &mut here);
        here.status |= saved.status & NEEDS_RESET;
        here.config_vector = interrupts.config_vector().load(Ordering::Acquire);
        if here == *saved {
            Ok(())
        } else {
            Err(StateError::Unfit("its registers have impossible values"))
        }
    }

    /// Whether the driver has said that it is ready.
    pub(super) fn is_driver_ok(&self) -> bool {
        self.status.phase() == Phase::DriverOk
    }

    /// The features agreed on; meaningful from FEATURES_OK.
    pub(super) fn features(&self) -> u64 {
        self.accepted
    }

    /// Number of queues that are enabled, from the first up to one that is not.
    pub(super) fn enabled(&self) -> usize {
        self.queues.iter().take_while(|queue| queue.enabled).count()
    }

    /// A queue as the driver left it, if it is enabled and lies in guest memory.
    pub(super) fn queue(&self, index: usize, memory: &Memory) -> Option<Queue> {
        let registers = self.queues.get(index).filter(|queue| queue.enabled)?;
        let mut queue = Queue::new(registers.max_size).ok()?;
        queue.try_set_size(registers.size).ok()?;
        queue
            .try_set_desc_table_address(GuestAddress(registers.descriptors))
            .ok()?;
        queue
            .try_set_avail_ring_address(GuestAddress(registers.driver))
            .ok()?;
        queue
            .try_set_used_ring_address(GuestAddress(registers.device))
            .ok()?;
        queue.set_event_idx(self.accepted & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        queue.set_ready(true);
        // An available ring at zero means "not set up" to the queue.
        (registers.driver != 0 && queue.is_valid(memory.as_ref())).then_some(queue)
    }

    /// The value of a register, or `None` where there is none of this width.
    pub(super) fn read(&self, interrupts: &InterruptState, offset: u64, len: usize) -> Option<u64> {
        let queue = self.queues.get(usize::from(self.queue_select));
        let value = match (offset, len) {
            (0x00, 4) => self.offered_select.into(),
            (0x04, 4) => half(self.offered, self.offered_select),
            (0x08, 4) => self.accepted_select.into(),
            (0x0c, 4) => half(self.accepted, self.accepted_select),
            (0x10, 2) => interrupts.config_vector().load(Ordering::Acquire).into(),
            (0x12, 2) => u64::try_from(self.queues.len()).ok()?,
            (0x14, 1) => {
                let broken = if interrupts.is_broken() {
                    NEEDS_RESET
                } else {
                    0
                };
                (self.status.bits() | broken).into()
            }
            (0x15, 1) => interrupts.generation().into(),
            (0x16, 2) => self.queue_select.into(),
            (0x18, 2) => queue.map_or(0, |queue| queue.size.into()),
            (0x1a, 2) => interrupts
                .queue_vector(self.queue_select)
                .map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
                .into(),
            (0x1c, 2) => queue.map_or(0, |queue| queue.enabled.into()),
            (0x1e, 2) => queue.map_or(0, |_| self.queue_select.into()),
            (0x20..0x38, 4 | 8) => {
                let address = queue.map_or(0, |queue| match offset & !7 {
                    0x20 => queue.descriptors,
                    0x28 => queue.driver,
                    _ => queue.device,
                });
                match (offset % 8, len) {
                    (0, 8) => address,
                    (0, 4) => half(address, 0),
                    (4, 4) => half(address, 1),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(value)
    }

    /// Takes a write; what is not a register of this width, or is frozen, is ignored.
    pub(super) fn write(
        &mut self,
        interrupts: &InterruptState,
        offset: u64,
        data: &[u8],
    ) -> Effect {
        match (offset, data) {
            (0x14, [value]) => return self.write_status(*value),
            (_, [a, b]) => self.write_word(interrupts, offset, u16::from_le_bytes([*a, *b])),
            (_, [a, b, c, d]) => {
                self.write_double_word(offset, u32::from_le_bytes([*a, *b, *c, *d]));
            }
            (0x20 | 0x28 | 0x30, data) => {
                if let Ok(bytes) = data.try_into() {
                    self.write_address(offset, u64::MAX, u64::from_le_bytes(bytes));
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn write_status(&mut self, value: u8) -> Effect {
        let version_1 = self.accepted & (1 << VIRTIO_F_VERSION_1) != 0;
        let features_good = version_1 && self.accepted & !self.offered == 0;
        match self.status.write(value, features_good) {
            Step::Nothing => Effect::None,
            Step::DriverOk => Effect::Activate,
            Step::Reset => {
                let sizes: Vec<_> = self.queues.iter().map(|queue| queue.max_size).collect();
                *self = Self::new(self.offered, &sizes);
                Effect::Reset
            }
        }
    }

    fn write_word(&mut self, interrupts: &InterruptState, offset: u64, value: u16) {
        match offset {
            0x10 => interrupts.assign(interrupts.config_vector(), value),
            0x16 => self.queue_select = value,
            0x18 => {
                if let Some(queue) = self.open_queue()
                    && value.is_power_of_two()
                    && value <= queue.max_size
                {
                    queue.size = value;
                }
            }
            0x1a => {
                if let Some(register) = interrupts.queue_vector(self.queue_select) {
                    interrupts.assign(register, value);
                }
            }
            0x1c if value == 1 => {
                if let Some(queue) = self.open_queue() {
                    queue.enabled = true;
                }
            }
            _ => {}
        }
    }

    fn write_double_word(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.offered_select = value,
            0x08 => self.accepted_select = value,
            0x0c if self.status.phase() < Phase::FeaturesOk => match self.accepted_select {
                0 => self.accepted = with_half(self.accepted, 0, value),
                1 => self.accepted = with_half(self.accepted, 1, value),
                // Features past 63 were not offered, and a driver that wants one is refused at FEATURES_OK only if
                // they were kept; there is nothing to lose by ignoring them.
                _ => {}
            },
            0x20 | 0x28 | 0x30 => self.write_address(offset, 0xffff_ffff, value.into()),
            0x24 | 0x2c | 0x34 => {
                self.write_address(offset & !7, !0xffff_ffff, u64::from(value) << 32);
            }
            _ => {}
        }
    }

    /// Sets the bits of `mask` of a queue address.
    fn write_address(&mut self, offset: u64, mask: u64, value: u64) {
        if let Some(queue) = self.open_queue() {
            let address = match offset {
                0x20 => &mut queue.descriptors,
                0x28 => &mut queue.driver,
                _ => &mut queue.device,
            };
            *address = (*address & !mask) | (value & mask);
        }
    }

    /// The selected queue, while it may be changed: it is not enabled and the driver is not ready.
    fn open_queue(&mut self) -> Option<&mut QueueRegisters> {
        if self.status.phase() == Phase::DriverOk {
            return None;
        }
        self.queues
            .get_mut(usize::from(self.queue_select))
            .filter(|queue| !queue.enabled)
    }
}

/// 32 bits of a 64-bit value, zero past its end.
fn half(value: u64, select: u32) -> u64 {
    match select {
        0 => value & 0xffff_ffff,
        1 => value >> 32,
        _ => 0,
    }
}

fn with_half(value: u64, select: u32, bits: u32) -> u64 {
    match select {
        0 => (value & !0xffff_ffff) | u64::from(bits),
        _ => (value & 0xffff_ffff) | (u64::from(bits) << 32),
    }
}
