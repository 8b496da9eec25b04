//! Test doubles: of what the vmm provides, and of a driver that fills queues as it pleases.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::desc::{RawDescriptor, split};
use virtio_queue::{Queue, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::event_loop::{EventLoop, Ready, SubscriberId};
use crate::lock;
use crate::pci::{MsiMessage, MsiRouter, NotifyRegistrar, RouteId};
use crate::virtio::{Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};

/// Remembers interrupts sent.
#[derive(Default)]
pub(crate) struct FakeRouter {
    routes: Mutex<Vec<Option<MsiMessage>>>,
    sent: Mutex<Vec<(u32, MsiMessage)>>,
    updates: AtomicUsize,
    refuse: AtomicBool,
}

impl FakeRouter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Route numbers and messages, in order.
    pub(crate) fn sent(&self) -> Vec<(u32, MsiMessage)> {
        lock(&self.sent).clone()
    }

    /// Times that the router was asked to update.
    pub(crate) fn updates(&self) -> usize {
        self.updates.load(Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self, refuse: bool) {
        self.refuse.store(refuse, Ordering::Relaxed);
    }
}

impl MsiRouter for FakeRouter {
    fn allocate(&self) -> io::Result<RouteId> {
        let mut routes = lock(&self.routes);
        routes.push(None);
        Ok(RouteId(
            u32::try_from(routes.len() - 1).expect("few routes"),
        ))
    }

    fn update(&self, route: RouteId, message: MsiMessage) -> io::Result<()> {
        self.updates.fetch_add(1, Ordering::Relaxed);
        if self.refuse.load(Ordering::Relaxed) {
            return Err(io::Error::other("refused"));
        }
        lock(&self.routes)[usize::try_from(route.0).expect("small")] = Some(message);
        Ok(())
    }

    fn trigger(&self, route: RouteId) {
        let message = lock(&self.routes)[usize::try_from(route.0).expect("small")];
        lock(&self.sent).push((route.0, message.expect("routed before triggered")));
    }
}

/// Remembers which addresses are watched.
#[derive(Default)]
pub(crate) struct FakeNotify {
    watched: Mutex<Vec<u64>>,
}

impl FakeNotify {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn watched(&self) -> Vec<u64> {
        lock(&self.watched).clone()
    }
}

impl NotifyRegistrar for FakeNotify {
    fn register(&self, address: u64, _kick: &EventFd) -> io::Result<()> {
        lock(&self.watched).push(address);
        Ok(())
    }

    fn unregister(&self, address: u64, _kick: &EventFd) {
        lock(&self.watched).retain(|watched| *watched != address);
    }
}

/// Counts what a device tells its driver.
#[derive(Default)]
pub(crate) struct FakeInterrupt {
    signals: AtomicUsize,
    broken: AtomicBool,
}

impl FakeInterrupt {
    pub(crate) fn signals(&self) -> usize {
        self.signals.load(Ordering::Relaxed)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Interrupt for FakeInterrupt {
    fn signal(&self) {
        self.signals.fetch_add(1, Ordering::Relaxed);
    }

    fn config_changed(&self) {}

    fn needs_reset(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

/// Guest memory of the tests begins at zero and has this many bytes.
pub(crate) const MEMORY: u64 = 0x10_0000;

pub(crate) fn memory() -> Memory {
    let len = usize::try_from(MEMORY).expect("small");
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).expect("memory"))
}

/// A device that is active on queues which the test fills, each with a page at `0x1000 * (index + 1)`.
pub(crate) struct Activated {
    pub(crate) device: Arc<Mutex<dyn VirtioDevice>>,
    pub(crate) memory: Memory,
    pub(crate) interrupt: Arc<FakeInterrupt>,
    event_loop: EventLoop,
    subscriber: SubscriberId,
    kicks: Vec<EventFd>,
    features: u64,
}

/// Entries of every queue of [`Activated`].
pub(crate) const QUEUE: u16 = 16;

/// A descriptor: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// VIRTIO_F_EVENT_IDX.
const EVENT_INDEXES: u64 = 1 << 29;

impl Activated {
    pub(crate) fn new(device: Arc<Mutex<dyn VirtioDevice>>) -> Self {
        Self::with_features(device, 0)
    }

    /// With these features negotiated, VERSION_1 besides; event indexes are not, whatever they say.
    pub(crate) fn with_features(device: Arc<Mutex<dyn VirtioDevice>>, features: u64) -> Self {
        Self::on(EventLoop::new().expect("epoll"), device, features)
    }

    /// On a loop that the device may know already.
    pub(crate) fn on(
        event_loop: EventLoop,
        device: Arc<Mutex<dyn VirtioDevice>>,
        features: u64,
    ) -> Self {
        Self::negotiated(event_loop, device, features & !EVENT_INDEXES)
    }

    /// On a loop, with event indexes: the driver says by [`Activated::has_seen`] what it knows of.
    pub(crate) fn with_event_indexes(
        event_loop: EventLoop,
        device: Arc<Mutex<dyn VirtioDevice>>,
    ) -> Self {
        Self::negotiated(event_loop, device, EVENT_INDEXES)
    }

    fn negotiated(
        event_loop: EventLoop,
        device: Arc<Mutex<dyn VirtioDevice>>,
        features: u64,
    ) -> Self {
        let subscriber = event_loop.add(Arc::clone(&device));
        let mut activated = Self {
            device,
            memory: memory(),
            interrupt: Arc::default(),
            event_loop,
            subscriber,
            kicks: Vec::new(),
            features: features | 1 << 32,
        };
        activated.activate();
        activated
    }

    fn activate(&mut self) {
        let mut device = lock(&self.device);
        let count = device.queues_possible(self.features);
        self.kicks = (0..count)
            .map(|_| EventFd::new(EFD_NONBLOCK).expect("eventfd"))
            .collect();
        let queues = (0..).zip(&self.kicks).map(|(index, kick)| {
            let kick = kick.try_clone().expect("eventfd");
            let mut queue = queue(index);
            queue.set_event_idx(self.features & EVENT_INDEXES != 0);
            ActiveQueue::new(queue, kick, self.interrupt.clone())
        });
        let activation = Activation {
            memory: self.memory.clone(),
            queues: queues.collect(),
            features: self.features,
        };
        let mut registrar = self.event_loop.registrar(self.subscriber);
        device
            .activate(activation, &mut registrar)
            .expect("activation");
    }

    /// Resets the device.
    pub(crate) fn stop(&self) {
        lock(&self.device).reset(&mut self.event_loop.registrar(self.subscriber));
    }

    /// Resets the device, clears memory and starts again.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let zeros = vec![0; usize::try_from(MEMORY).expect("small")];
        self.memory
            .write_slice(&zeros, GuestAddress(0))
            .expect("all of memory");
        self.interrupt = Arc::default();
        self.activate();
    }

    /// Writes descriptors from entry 0 and makes the given heads available, after those that are.
    pub(crate) fn offer(&self, queue: usize, descriptors: &[Descriptor], heads: &[u16]) {
        self.table(rings(queue), descriptors);
        let available = rings(queue) + AVAILABLE;
        let mut index: u16 = self.load(available + 2);
        for head in heads {
            self.store(available + 4 + 2 * u64::from(index % QUEUE), *head);
            index = index.wrapping_add(1);
        }
        self.set_available(queue, index);
    }

    /// Writes the available ring's index.
    pub(crate) fn set_available(&self, queue: usize, index: u16) {
        self.store(rings(queue) + AVAILABLE + 2, index);
    }

    /// Writes descriptors as a table somewhere in memory, for indirect ones.
    pub(crate) fn table(&self, address: u64, descriptors: &[Descriptor]) {
        for (index, (target, len, flags, next)) in (0..).zip(descriptors) {
            let descriptor = split::Descriptor::new(*target, *len, *flags, *next);
            self.store(address + index * 16, RawDescriptor::from(descriptor));
        }
    }

    fn store<T: ByteValued>(&self, address: u64, value: T) {
        self.memory
            .write_obj(value, GuestAddress(address))
            .expect("in memory");
    }

    fn load<T: ByteValued>(&self, address: u64) -> T {
        self.memory
            .read_obj(GuestAddress(address))
            .expect("in memory")
    }

    /// Kicks a queue and runs the loop until nothing is ready.
    pub(crate) fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).expect("not full");
        self.rest();
    }

    /// Runs the loop until nothing is ready.
    pub(crate) fn rest(&self) {
        for _ in 0..1000 {
            if self.event_loop.run_ready().expect("epoll") == 0 {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// As if a descriptor with this token were ready.
    pub(crate) fn ready(&self, token: u32) {
        let mut registrar = self.event_loop.registrar(self.subscriber);
        VirtioDevice::handle(
            &mut *lock(&self.device),
            token,
            Ready::READABLE,
            &mut registrar,
        );
    }

    /// The driver says that it knows of everything that the device has used (virtio 1.2, 2.7.7).
    pub(crate) fn has_seen(&self, queue: usize) {
        let count: u16 = self.load(rings(queue) + USED + 2);
        self.store(rings(queue) + AVAILABLE + 4 + 2 * u64::from(QUEUE), count);
    }

    /// Heads and lengths that the device has used.
    pub(crate) fn used(&self, queue: usize) -> Vec<(u32, u32)> {
        let used = rings(queue) + USED;
        let count: u16 = self.load(used + 2);
        (0..u64::from(count))
            .map(|index| {
                let entry = used + 4 + 8 * (index % u64::from(QUEUE));
                (self.load(entry), self.load(entry + 4))
            })
            .collect()
    }
}

/// Where the rings of a queue are: descriptors first, then at fixed distances the two rings.
fn rings(queue: usize) -> u64 {
    0x1000 * (u64::try_from(queue).expect("small") + 1)
}

const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;

fn queue(index: usize) -> Queue {
    let mut queue = Queue::new(QUEUE).expect("a power of two");
    let address = |offset| u32::try_from(rings(index) + offset).ok();
    queue.set_desc_table_address(address(0), None);
    queue.set_avail_ring_address(address(AVAILABLE), None);
    queue.set_used_ring_address(address(USED), None);
    queue.set_ready(true);
    queue
}
