//! A driver that has put anything at all into the memory of its queues, and a device that has to live with it.
//!
//! An input is one byte of flags and an image of guest memory from address 0. Queue `q` has 16 entries: descriptors at
//! `0x200 * q`, the available ring 0x100 and the used ring 0x140 bytes behind. Flags: bit 0 negotiates event indexes,
//! bit 1 is the target's own, bit 2 negotiates everything else that the device offers, and when bits 4 to 7 are not
//! zero everything comes once more, with so many new heads in each queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_devices::event_loop::{EventLoop, SubscriberId};
use casemate_devices::virtio::{Activation, ActiveQueue, Memory, VirtioDevice};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::doubles::Silence;

/// Bytes of guest memory, from address 0.
pub const MEMORY: usize = 0x1_0000;
/// Bytes from the rings of one queue to those of the next.
pub const QUEUE_STRIDE: u64 = 0x200;
/// Where the available ring of a queue is, from its descriptors.
pub const AVAILABLE: u64 = 0x100;
/// Where the used ring of a queue is, from its descriptors.
pub const USED: u64 = 0x140;
/// Entries of each queue.
pub const ENTRIES: u16 = 16;
/// Flag: event indexes were negotiated.
pub const EVENT_INDEX: u8 = 1;
/// Flag: what the target makes of it.
pub const OWN: u8 = 2;
/// Flag: every feature of the device itself is negotiated.
pub const FEATURES: u8 = 4;

/// Feature bits.
const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// Turns of the loop after which a device is said never to come to rest; each event may cause a few more.
const MAX_TURNS: usize = 1000;

struct Driver {
    device: Arc<Mutex<dyn VirtioDevice>>,
    memory: Memory,
    event_loop: EventLoop,
    subscriber: SubscriberId,
    kicks: Vec<EventFd>,
}

/// Plays an input against a device: kicks every queue, lets `between` act from the other side, perhaps a second
/// time, and resets. The device must come to rest each time and leave memory alone after the reset.
pub fn play(device: impl VirtioDevice + 'static, input: &[u8], between: impl FnMut()) {
    play_on(EventLoop::new().expect("epoll"), device, input, between);
}

/// Like [`play`], on a loop that the device may know already.
pub fn play_on(
    event_loop: EventLoop,
    device: impl VirtioDevice + 'static,
    input: &[u8],
    mut between: impl FnMut(),
) {
    let Some((flags, image)) = input.split_first() else {
        return;
    };
    let mut driver = Driver::new(event_loop, Arc::new(Mutex::new(device)));
    driver.activate(*flags);
    driver.fill(image);
    driver.kick();
    between();
    driver.rest();
    let more = u16::from(flags >> 4);
    if more > 0 {
        driver.fill(image);
        driver.advance(more);
        driver.kick();
        between();
        driver.rest();
    }
    driver.reset();
}

impl Driver {
    fn new(event_loop: EventLoop, device: Arc<Mutex<dyn VirtioDevice>>) -> Self {
        let subscriber = event_loop.add(Arc::clone(&device));
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        Self {
            device,
            memory: Arc::new(memory),
            event_loop,
            subscriber,
            kicks: Vec::new(),
        }
    }

    fn device(&self) -> MutexGuard<'_, dyn VirtioDevice + 'static> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn activate(&mut self, flags: u8) {
        let mut wanted = RING_INDIRECT_DESC | VERSION_1;
        if flags & FEATURES != 0 {
            wanted |= !RING_EVENT_IDX;
        }
        if flags & EVENT_INDEX != 0 {
            wanted |= RING_EVENT_IDX;
        }
        let (count, features) = {
            let device = self.device();
            let features = wanted & (device.features() | VERSION_1);
            (device.queues_possible(features), features)
        };
        let kick = || EventFd::new(EFD_NONBLOCK).expect("eventfd");
        self.kicks = (0..count).map(|_| kick()).collect();
        let queues = (0u64..).zip(&self.kicks).map(|(index, kick)| {
            let queue = queue(index, features & RING_EVENT_IDX != 0);
            ActiveQueue::new(queue, kick.try_clone().expect("eventfd"), Arc::new(Silence))
        });
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues: queues.collect(),
            features,
        };
        let mut registrar = self.event_loop.registrar(self.subscriber);
        self.device()
            .activate(activation, &mut registrar)
            .expect("activation");
    }

    fn fill(&self, image: &[u8]) {
        let image = image.get(..MEMORY).unwrap_or(image);
        self.memory
            .write_slice(image, GuestAddress(0))
            .expect("in memory");
    }

    /// Makes so many more heads available in each queue.
    fn advance(&self, more: u16) {
        for (queue, _) in (0..).zip(&self.kicks) {
            let place = GuestAddress(QUEUE_STRIDE * queue + AVAILABLE + 2);
            let index: u16 = self.memory.read_obj(place).expect("in memory");
            self.memory
                .write_obj(index.wrapping_add(more), place)
                .expect("in memory");
        }
    }

    fn kick(&self) {
        for kick in &self.kicks {
            kick.write(1).expect("the counter is not full");
        }
        self.rest();
    }

    fn rest(&self) {
        for _ in 0..MAX_TURNS {
            if self.event_loop.run_ready().expect("epoll") == 0 {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    fn reset(&self) {
        let mut registrar = self.event_loop.registrar(self.subscriber);
        self.device().reset(&mut registrar);
        self.advance(1);
        let before = self.contents();
        self.kick();
        assert!(
            before == self.contents(),
            "memory was touched after the reset"
        );
    }

    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY];
        self.memory
            .read_slice(&mut bytes, GuestAddress(0))
            .expect("in memory");
        bytes
    }
}

fn queue(index: u64, event_index: bool) -> Queue {
    let mut queue = Queue::new(ENTRIES).expect("a power of two");
    let base = QUEUE_STRIDE * index;
    let address = |offset| u32::try_from(base + offset).ok();
    queue.set_desc_table_address(address(0), None);
    queue.set_avail_ring_address(address(AVAILABLE), None);
    queue.set_used_ring_address(address(USED), None);
    queue.set_event_idx(event_index);
    queue.set_ready(true);
    queue
}
