//! virtio-pci, modern (virtio 1.2, section 4.1): one function around one [`VirtioDevice`].
//!
//! Registers are in BAR0, a page each:
//!
//! ```text
//! 0x0000 common configuration     0x4000 MSI-X table
//! 0x1000 interrupt status         0x5000 MSI-X pending bits
//! 0x2000 device configuration
//! ```
//!
//! BAR2 is of ports: the notify registers, four for a queue. A second capability for notify registers in memory would be
//! read by every kernel and used by none. All is also reachable through the PCI configuration access capability. Negotiation ([`common`]) is pure; this
//! module acts on what it returns. Bus mastering is not enforced: a device whose driver set DRIVER_OK works.

mod common;
mod gone;
mod interrupt;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{debug, warn};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::{
    VIRTIO_ID_BLOCK, VIRTIO_ID_CONSOLE, VIRTIO_ID_NET, VIRTIO_ID_VSOCK,
};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::common::{Common, Effect};
use self::gone::Gone;
use self::interrupt::{InterruptState, QueueInterrupt};
use super::{ActivateError, Activation, ActiveQueue, MAX_QUEUE_SIZE, Memory, VirtioDevice};
use crate::event_loop::{EventLoop, SubscriberId};
use crate::lock;
use crate::pci::{
    BarIndex, Configuration, ConfigurationError, Identity, MsiRouter, Msix, NotifyRegistrar,
    PciFunction,
};
use crate::state::{FunctionState, QueuePosition, StateError, VirtioState};
use crate::throttle::Throttle;

/// Most queues of a device; a bound on our own devices, so that tables stay in their pages.
pub const MAX_QUEUES: usize = 16;

const BAR_LEN: u64 = 0x8000;
const PAGE: u64 = 0x1000;
const ISR: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
const TABLE: u32 = 0x4000;
const PENDING: u32 = 0x5000;

/// Ports between the notify registers of neighbouring queues.
const NOTIFY_MULTIPLIER: u32 = 4;

/// The BAR of ports: notify registers only, of as many queues as there can be.
const PORTS_BAR: BarIndex = BarIndex::Bar2;
const PORTS_LEN: u64 = 64;

/// virtio's PCI vendor number, and its modern device numbers (virtio 1.2, 4.1.2).
const VENDOR_VIRTIO: u16 = 0x1af4;
const DEVICE_MODERN: u16 = 0x1040;

/// Vendor capability and its types (virtio 1.2, 4.1.4).
const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_COMMON: u8 = 1;
const CAPABILITY_NOTIFY: u8 = 2;
const CAPABILITY_ISR: u8 = 3;
const CAPABILITY_DEVICE: u8 = 4;
const CAPABILITY_ACCESS: u8 = 5;

/// What the vmm provides to every virtio function of a VM.
#[derive(Clone)]
pub struct HostServices {
    /// Guest memory, against which queue addresses are checked.
    pub memory: Memory,
    /// Interrupts.
    pub router: Arc<dyn MsiRouter>,
    /// Queue notifications.
    pub notify: Arc<dyn NotifyRegistrar>,
}

impl fmt::Debug for HostServices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HostServices")
            .finish_non_exhaustive()
    }
}

/// A device could not be put on the bus.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Queues of a size or number that the transport does not have. A bug of the device.
    #[error("device {device_type} wants queues that the transport does not have")]
    Queues {
        /// The virtio device number.
        device_type: u32,
    },
    /// Configuration space cannot describe it. A bug of the transport.
    #[error("configuration space")]
    Configuration(#[from] ConfigurationError),
    /// No descriptor or interrupt route.
    #[error("descriptors or interrupt routes")]
    Resources(#[from] io::Error),
}

/// One virtio device as a PCI function.
pub struct VirtioPci {
    configuration: Configuration,
    /// Offsets of the MSI-X control register and of the access capability in configuration space.
    msix_control: u16,
    access: u16,
    common: Common,
    interrupts: Arc<InterruptState>,
    kicks: Vec<EventFd>,
    /// Where the BAR of ports is decoded, so that doorbells can be taken back.
    ports: Option<u64>,
    services: HostServices,
    device: Arc<Mutex<dyn VirtioDevice>>,
    event_loop: EventLoop,
    subscriber: SubscriberId,
    /// The interrupt object of the current activation; on reset it dies.
    activation: Option<interrupt::Lease>,
    /// For what the guest can provoke by moving the BAR.
    warnings: Throttle,
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("VirtioPci")
            .field("common", &self.common)
            .finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// Wraps a device, whose queues and descriptors will be served by `event_loop`.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn new(
        device: Arc<Mutex<dyn VirtioDevice>>,
        event_loop: &EventLoop,
        services: HostServices,
    ) -> Result<Self, TransportError> {
        let (device_type, sizes, features) = {
            let device = lock(&device);
            let sizes = device.queue_sizes().to_vec();
            (device.device_type(), sizes, device.features())
        };
        let queues = TransportError::Queues { device_type };
        let good = |size: &u16| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE;
        if sizes.is_empty() || sizes.len() > MAX_QUEUES || !sizes.iter().all(good) {
            return Err(queues);
        }
        let vectors = u16::try_from(sizes.len().saturating_add(1)).map_err(|_| queues)?;
        let msix = Msix::new(Arc::clone(&services.router), vectors)?;
        let (configuration, msix_control, access) = configuration(device_type, sizes.len(), &msix)?;
        let kicks = sizes
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC))
            .collect::<io::Result<_>>()?;
        let subscriber = event_loop.add(Arc::clone(&device));
        Ok(Self {
            configuration,
            msix_control,
            access,
            common: Common::new(features | (1 << VIRTIO_F_VERSION_1), &sizes),
            interrupts: Arc::new(InterruptState::new(msix, sizes.len())),
            kicks,
            ports: None,
            services,
            device,
            event_loop: event_loop.clone(),
            subscriber,
            activation: None,
            warnings: Throttle::default(),
        })
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Reset => self.reset(),
            Effect::Activate => {
                if let Err(error) = self.activate(&[]) {
                    // Once per driver start at most, and only for a driver that is broken or hostile.
                    debug!(%error, "device was not activated");
                    self.interrupts.needs_reset();
                }
            }
        }
    }

    /// Number of queues of an activation: those that the driver enabled, as far as the device can have them, and none
    /// fewer than it must have.
    fn queues_wanted(&self) -> usize {
        let (device, features) = (lock(&self.device), self.common.features());
        let enabled = self.common.enabled();
        enabled
            .min(device.queues_possible(features))
            .max(device.queues_needed(features))
    }

    /// Starts the device; its queues go on from `positions`, or begin when there are none.
    fn activate(&mut self, positions: &[QueuePosition]) -> Result<(), ActivateError> {
        let lease = interrupt::Lease::new();
        let memory = &self.services.memory;
        let mut queues = Vec::new();
        let wanted = self.queues_wanted();
        for (index, kick) in self.kicks.iter().take(wanted).enumerate() {
            let Some(queue) = self.common.queue(index, memory) else {
                break;
            };
            debug_assert!(queue.ready());
            let interrupt = Arc::new(QueueInterrupt::new(&self.interrupts, &lease, index));
            let mut queue = ActiveQueue::new(queue, kick.try_clone()?, interrupt);
            if let Some(position) = positions.get(index) {
                queue.go_to(*position);
            }
            queues.push(queue);
        }
        if queues.len() != wanted {
            return Err(ActivateError::Queues {
                got: queues.len(),
                expected: wanted,
            });
        }
        let activation = Activation {
            memory: Memory::clone(memory),
            queues,
            features: self.common.features(),
        };
        let mut registrar = self.event_loop.registrar(self.subscriber);
        let mut device = lock(&self.device);
        self.activation = Some(lease);
        device
            .activate(activation, &mut registrar)
            .inspect_err(|_| device.reset(&mut registrar))
    }

    fn reset(&mut self) {
        if let Some(lease) = self.activation.take() {
            let mut registrar = self.event_loop.registrar(self.subscriber);
            lock(&self.device).reset(&mut registrar);
            lease.end();
        }
        self.interrupts.reset();
    }

    /// Starts a restored device where it was. One whose rings were broken, or whose driver was not ready, is not started:
    /// the driver's next step does it.
    fn restart(&mut self, positions: &[QueuePosition]) -> Result<(), StateError> {
        let runs = self.common.is_driver_ok() && !self.interrupts.is_broken();
        if !runs {
            return Ok(());
        }
        let needed = self.queues_wanted();
        if positions.len() != needed {
            return Err(StateError::Unfit("it has another number of active queues"));
        }
        self.activate(positions)
            .map_err(|error| StateError::Activation(error.to_string()))?;
        for (index, kick) in self.kicks.iter().take(needed).enumerate() {
            // A notification that had not been served is served now; fails only when the counter is full.
            let _ = kick.write(1);
            self.interrupts.repeat(index);
        }
        Ok(())
    }

    fn notify(&self, offset: u64) {
        let index = offset.checked_div(NOTIFY_MULTIPLIER.into());
        let index = index.and_then(|index| usize::try_from(index).ok());
        if let Some(kick) = index.and_then(|index| self.kicks.get(index)) {
            // Fails only when the counter is full, and then it is ready.
            let _ = kick.write(1);
        }
    }

    /// The access that the driver set up in the access capability (virtio 1.2, 4.1.4.9), if this is one: an aligned
    /// access of 1, 2 or 4 bytes inside a BAR, with the data register read or written in the same width.
    fn indirect(&self, offset: u16, len: usize) -> Option<(BarIndex, u64)> {
        let word = |at: u16| {
            self.configuration
                .double_word(self.access.saturating_add(at))
        };
        let [number, ..] = word(4).to_le_bytes();
        let known = |(bar, _): &(BarIndex, u64)| bar.number() == number;
        let bars = [(BarIndex::Bar0, BAR_LEN), (PORTS_BAR, PORTS_LEN)];
        let (bar, bar_len) = bars.into_iter().find(known)?;
        let (target, length) = (word(8), word(12));
        let data = self.access.saturating_add(16);
        let good = offset == data
            && matches!(length, 1 | 2 | 4)
            && usize::try_from(length) == Ok(len)
            && target.is_multiple_of(length)
            && u64::from(target) < bar_len;
        good.then_some((bar, u64::from(target)))
    }
}

impl PciFunction for VirtioPci {
    fn configuration(&mut self) -> &mut Configuration {
        &mut self.configuration
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        match self.indirect(offset, data.len()) {
            Some((bar, target)) => {
                data.fill(0xff);
                self.bar_read(bar, target, data);
            }
            None => self.configuration.read(offset, data),
        }
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.configuration.write(offset, data);
        if let Some((bar, target)) = self.indirect(offset, data.len()) {
            self.bar_write(bar, target, data);
        }
        // Byte accesses and the 32-bit one that starts at the capability all reach it.
        if (self.msix_control & !3..self.msix_control.saturating_add(2)).contains(&offset) {
            let control = self.configuration.word(self.msix_control);
            self.interrupts.msix().set_control(control);
        }
    }

    fn bar_read(&mut self, bar: BarIndex, offset: u64, data: &mut [u8]) {
        if bar == PORTS_BAR {
            return;
        }
        let within = offset % PAGE;
        match page(offset) {
            0 => {
                if let Some(value) = self.common.read(&self.interrupts, within, data.len()) {
                    let bytes = value.to_le_bytes();
                    for (place, byte) in data.iter_mut().zip(bytes) {
                        *place = byte;
                    }
                }
            }
            ISR => {
                if let (0, [status]) = (within, data) {
                    *status = self.interrupts.take_status();
                }
            }
            DEVICE => {
                data.fill(0);
                lock(&self.device).read_config(within, data);
            }
            TABLE => self.interrupts.msix().read_table(within, data),
            PENDING => self.interrupts.msix().read_pending(within, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, bar: BarIndex, offset: u64, data: &[u8]) {
        if bar == PORTS_BAR {
            return self.notify(offset);
        }
        let within = offset % PAGE;
        match page(offset) {
            0 => {
                let effect = self.common.write(&self.interrupts, within, data);
                self.act(effect);
            }
            DEVICE => lock(&self.device).write_config(within, data),
            TABLE => self.interrupts.msix().write_table(within, data),
            _ => {}
        }
    }

    fn save(&mut self) -> Option<FunctionState> {
        let device = lock(&self.device);
        let mut state = VirtioState {
            device_type: device.device_type(),
            positions: device.positions(),
            own: device.save(),
            ..VirtioState::default()
        };
        drop(device);
        self.common.save(&self.interrupts, &mut state);
        self.interrupts.save(&mut state);
        Some(FunctionState {
            configuration: self.configuration.save(),
            virtio: Some(state),
        })
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        let state = saved.virtio.as_ref();
        let state = state.ok_or(StateError::Unfit("it is a virtio device"))?;
        {
            let mut device = lock(&self.device);
            if device.device_type() != state.device_type {
                return Err(StateError::Unfit("it is a virtio device of another kind"));
            }
            device.restore(&state.own)?;
        }
        self.configuration.restore(&saved.configuration)?;
        self.common.restore(&self.interrupts, state)?;
        self.interrupts.restore(state)?;
        let control = self.configuration.word(self.msix_control);
        self.interrupts.msix().restore(&state.vectors, control)?;
        self.restart(&state.positions)
    }

    fn bar_moved(&mut self, bar: BarIndex, address: Option<u64>) {
        if bar != PORTS_BAR {
            return;
        }
        let notify = Arc::clone(&self.services.notify);
        let step = usize::try_from(NOTIFY_MULTIPLIER).unwrap_or(usize::MAX);
        let doorbells = |base: u64| (base..).step_by(step);
        if let Some(old) = self.ports.take() {
            for (kick, port) in self.kicks.iter().zip(doorbells(old)) {
                notify.unregister(port, kick);
            }
        }
        if let Some(new) = address {
            for (kick, port) in self.kicks.iter().zip(doorbells(new)) {
                if let Err(error) = notify.register(port, kick)
                    && self.warnings.allows(Instant::now())
                {
                    warn!(port, %error, "queue notifications take the slow way");
                }
            }
        }
        self.ports = address;
    }

    fn removed(&mut self) {
        self.reset();
        // Whatever access still comes finds a device without queues.
        let device = std::mem::replace(&mut self.device, Arc::new(Mutex::new(Gone)));
        let (event_loop, subscriber) = (self.event_loop.clone(), self.subscriber);
        // On the device's own thread, which is the one that may do what its end takes: a disk writes.
        self.event_loop.run_job(Box::new(move || {
            event_loop.remove(subscriber);
            drop(device);
        }));
    }
}

/// The page of BAR0 in which an access begins.
fn page(offset: u64) -> u32 {
    u32::try_from(offset & !(PAGE - 1)).unwrap_or(u32::MAX)
}

/// Configuration space, with the offsets of the MSI-X control register and of the access capability.
fn configuration(
    device_type: u32,
    queues: usize,
    msix: &Msix,
) -> Result<(Configuration, u16, u16), TransportError> {
    let number = u16::try_from(device_type)
        .ok()
        .and_then(|number| DEVICE_MODERN.checked_add(number))
        .ok_or(TransportError::Queues { device_type })?;
    let mut space = Configuration::new(Identity {
        vendor: VENDOR_VIRTIO,
        device: number,
        class: class(device_type),
        revision: 1,
        subsystem: (VENDOR_VIRTIO, 0x40),
    });
    space.add_bar(BarIndex::Bar0, BAR_LEN, false)?;
    space.add_ports(PORTS_BAR, PORTS_LEN)?;
    let msix_control = msix.add_capability(&mut space, BarIndex::Bar0, TABLE, PENDING)?;
    let queues = u32::try_from(queues).unwrap_or(u32::MAX);
    let doorbells = queues.saturating_mul(NOTIFY_MULTIPLIER);
    let (page, memory) = (0x1000, BarIndex::Bar0);
    for (kind, bar, offset, len) in [
        (CAPABILITY_COMMON, memory, 0, common::LEN),
        (CAPABILITY_ISR, memory, ISR, 1),
        (CAPABILITY_DEVICE, memory, DEVICE, page),
        (CAPABILITY_NOTIFY, PORTS_BAR, 0, doorbells),
    ] {
        let mut body = capability(kind, bar, offset, len);
        if kind == CAPABILITY_NOTIFY {
            body.extend_from_slice(&NOTIFY_MULTIPLIER.to_le_bytes());
        }
        set_length(&mut body);
        space.add_capability(CAPABILITY_VENDOR, &body, &[])?;
    }
    let mut body = capability(CAPABILITY_ACCESS, memory, 0, 0);
    body.extend_from_slice(&[0; 4]);
    set_length(&mut body);
    // Writable: the BAR number, then offset, length and data.
    let writable = [[0, 0, 0xff].as_slice(), &[0; 3], &[0xff; 12]].concat();
    let access = space.add_capability(CAPABILITY_VENDOR, &body, &writable)?;
    Ok((space, msix_control, u16::from(access)))
}

/// The body of a vendor capability, after number and link: length, type, BAR, id, padding, offset, length.
fn capability(kind: u8, bar: BarIndex, offset: u32, len: u32) -> Vec<u8> {
    let mut body = vec![0, kind, bar.number(), 0, 0, 0];
    body.extend_from_slice(&offset.to_le_bytes());
    body.extend_from_slice(&len.to_le_bytes());
    body
}

/// Fills in a capability's own length, which counts number and link.
fn set_length(body: &mut [u8]) {
    let len = u8::try_from(body.len().saturating_add(2)).unwrap_or(u8::MAX);
    if let Some(first) = body.first_mut() {
        *first = len;
    }
}

fn class(device_type: u32) -> u32 {
    match device_type {
        VIRTIO_ID_NET => 0x02_00_00,
        VIRTIO_ID_BLOCK => 0x01_80_00,
        VIRTIO_ID_CONSOLE => 0x07_80_00,
        VIRTIO_ID_VSOCK => 0x02_80_00,
        _ => 0xff_00_00,
    }
}
