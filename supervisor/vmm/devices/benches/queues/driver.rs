//! A driver in the same process: fills the queues of a device, kicks it and lets its loop work, all on one thread.
//!
//! What is measured is a device with its queue, its kick (an eventfd) and one turn of its loop; no VM is entered and
//! no interrupt is injected.

use std::sync::{Arc, Mutex, PoisonError};

use casemate_devices::event_loop::{EventLoop, SubscriberId};
use casemate_devices::virtio::{Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of guest memory.
pub(crate) const MEMORY: usize = 64 << 20;
/// Entries of every queue.
pub(crate) const ENTRIES: u16 = 256;
/// Where buffers may be; rings are below.
pub(crate) const BUFFERS: u64 = 1 << 20;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

const RINGS: u64 = 0x1_0000;
const STRIDE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;

const VERSION_1: u64 = 1 << 32;

/// A descriptor: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

struct Silence;

impl Interrupt for Silence {
    fn signal(&self) {}
    fn config_changed(&self) {}
    fn needs_reset(&self) {
        unreachable!("the driver is well-behaved");
    }
}

/// The driver of one device.
pub(crate) struct Driver {
    pub(crate) memory: Memory,
    event_loop: EventLoop,
    kicks: Vec<EventFd>,
    offered: Vec<u16>,
    _device: Arc<Mutex<dyn VirtioDevice>>,
    _subscriber: SubscriberId,
}

fn rings(queue: usize) -> u64 {
    RINGS + STRIDE * u64::try_from(queue).expect("few")
}

fn queue(index: usize) -> Queue {
    let mut queue = Queue::new(ENTRIES).expect("a power of two");
    let at = |offset| GuestAddress(rings(index) + offset);
    queue.try_set_desc_table_address(at(0)).expect("aligned");
    queue
        .try_set_avail_ring_address(at(AVAILABLE))
        .expect("aligned");
    queue.try_set_used_ring_address(at(USED)).expect("aligned");
    queue.set_event_idx(true);
    queue.set_ready(true);
    queue
}

impl Driver {
    /// Activates a device with everything that it offers.
    pub(crate) fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::on(EventLoop::new().expect("epoll"), device)
    }

    /// On a loop that the device may know already.
    pub(crate) fn on(event_loop: EventLoop, device: impl VirtioDevice + 'static) -> Self {
        let features = device.features() | VERSION_1;
        let count = device.queues_possible(features);
        let device: Arc<Mutex<dyn VirtioDevice>> = Arc::new(Mutex::new(device));
        let subscriber = event_loop.add(Arc::clone(&device));
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let memory = Arc::new(memory);
        let kicks: Vec<EventFd> = (0..count)
            .map(|_| EventFd::new(EFD_NONBLOCK).expect("eventfd"))
            .collect();
        let queues = kicks.iter().enumerate().map(|(index, kick)| {
            let kick = kick.try_clone().expect("eventfd");
            ActiveQueue::new(queue(index), kick, Arc::new(Silence))
        });
        let activation = Activation {
            memory: Arc::clone(&memory),
            queues: queues.collect(),
            features,
        };
        device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .activate(activation, &mut event_loop.registrar(subscriber))
            .expect("activation");
        let driver = Self {
            memory,
            event_loop,
            offered: vec![0; count],
            kicks,
            _device: device,
            _subscriber: subscriber,
        };
        // Every page is touched once, so that no fault is measured.
        driver.write(BUFFERS, &vec![1; MEMORY - (1 << 20)]);
        driver.work();
        driver
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("in memory");
    }

    /// Writes descriptors from an entry on.
    pub(crate) fn describe(&self, queue: usize, first: u16, descriptors: &[Descriptor]) {
        for (index, (target, len, flags, next)) in (u64::from(first)..).zip(descriptors) {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&target.to_le_bytes());
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&next.to_le_bytes());
            self.write(rings(queue) + 16 * index, &bytes);
        }
    }

    /// Makes chains available; nobody is told.
    pub(crate) fn offer(&mut self, queue: usize, heads: impl IntoIterator<Item = u16>) {
        let available = rings(queue) + AVAILABLE;
        let mut index = self.offered[queue];
        for head in heads {
            let entry = available + 4 + 2 * u64::from(index % ENTRIES);
            self.write(entry, &head.to_le_bytes());
            index = index.wrapping_add(1);
        }
        self.offered[queue] = index;
        self.write(available + 2, &index.to_le_bytes());
    }

    /// Kicks a queue and lets the device work until nothing is ready.
    pub(crate) fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).expect("not full");
        self.work();
    }

    /// Lets the device work until nothing is ready.
    pub(crate) fn work(&self) {
        while self.event_loop.run_ready().expect("epoll") > 0 {}
    }

    /// Chains offered so far, modulo 2^16.
    pub(crate) fn offered(&self, queue: usize) -> u16 {
        self.offered[queue]
    }

    /// Number of chains that the device has not used yet.
    pub(crate) fn waiting(&self, queue: usize) -> u16 {
        let index: u16 = self
            .memory
            .read_obj(GuestAddress(rings(queue) + USED + 2))
            .expect("in memory");
        self.offered[queue].wrapping_sub(index)
    }
}
