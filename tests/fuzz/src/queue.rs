//! One queue between a driver that writes what it likes and a device that takes and gives back in any order.
//!
//! An input is a list of steps of 8 bytes: what, a number, a place of two bytes, a value of four. Rings and tables are in
//! the first page: descriptors at 0, the available ring at 0x100, the used ring at 0x180.

use std::sync::Arc;

use casemate_devices::scatter::{Buffers, MAX_SEGMENTS, View};
use casemate_devices::virtio::{ActiveQueue, Memory, QueueError};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::doubles::Silence;
use crate::input::Input;

/// Bytes of guest memory, from address 0.
pub const MEMORY: usize = 0x2000;
/// Entries of the queue.
pub const ENTRIES: u16 = 16;
/// Where the available ring is.
pub const AVAILABLE: u64 = 0x100;
/// Where the used ring is.
pub const USED: u64 = 0x180;

/// What a step does; the number is its first byte.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Step {
    /// The driver writes the value (so many bytes as the number says, at most 4) at the place.
    Write = 0,
    /// The driver makes the place's entry available: the value is the head.
    Offer = 1,
    /// The device takes a chain and looks at its buffers.
    Pop = 2,
    /// The device gives back one of the chains it holds: the number says which.
    Complete = 3,
    /// The device gives back everything it holds, at once.
    CompleteTogether = 4,
    /// The device puts the chain that it took last back.
    PutBack = 5,
    /// The device tells the driver, and asks to be told.
    Notify = 6,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Write,
        Self::Offer,
        Self::Pop,
        Self::Complete,
        Self::CompleteTogether,
        Self::PutBack,
        Self::Notify,
    ];
}

struct Device {
    memory: Memory,
    queue: ActiveQueue,
    buffers: Buffers,
    /// Heads in the order in which they were taken.
    held: Vec<u16>,
    /// The last step took a chain, and nothing was given back since.
    may_put_back: bool,
    answered: u16,
}

/// Plays an input. The device holds no head twice, no more than there are, and only buffers in memory; the used ring
/// counts what was given back.
pub fn play(input: &[u8]) {
    let Some((event_index, input)) = input.split_first() else {
        return;
    };
    let mut device = Device::new(event_index & 1 != 0);
    let mut input = Input(input);
    let mut offered = 0_u16;
    while let Some([what, number, p0, p1, value @ ..]) = input.take::<8>() {
        let place = u64::from(u16::from_le_bytes([p0, p1]));
        let result = match Step::ALL[usize::from(what) % Step::ALL.len()] {
            Step::Write => {
                let len = usize::from(number % 4) + 1;
                // Fails where there is no memory, like a guest's write.
                let _ = device
                    .memory
                    .write_slice(&value[..len], GuestAddress(place));
                Ok(())
            }
            Step::Offer => {
                let head = u16::from_le_bytes([value[0], value[1]]);
                device.offer(&mut offered, head);
                Ok(())
            }
            Step::Pop => device.pop(),
            Step::Complete => device.complete(usize::from(number), u32::from_le_bytes(value)),
            Step::CompleteTogether => device.complete_together(),
            Step::PutBack => {
                device.put_back();
                Ok(())
            }
            Step::Notify => device.notify(),
        };
        // Broken rings are the end until a reset.
        if result.is_err() {
            return;
        }
    }
}

impl Device {
    fn new(event_index: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let mut queue = Queue::new(ENTRIES).expect("a power of two");
        queue
            .try_set_avail_ring_address(GuestAddress(AVAILABLE))
            .expect("aligned");
        queue
            .try_set_used_ring_address(GuestAddress(USED))
            .expect("aligned");
        queue.set_event_idx(event_index);
        queue.set_ready(true);
        let kick = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Self {
            memory: Arc::new(memory),
            queue: ActiveQueue::new(queue, kick, Arc::new(Silence)),
            buffers: Buffers::default(),
            held: Vec::new(),
            may_put_back: false,
            answered: 0,
        }
    }

    fn offer(&self, offered: &mut u16, head: u16) {
        let entry = AVAILABLE + 4 + 2 * u64::from(*offered % ENTRIES);
        *offered = offered.wrapping_add(1);
        for (place, word) in [(entry, head), (AVAILABLE + 2, *offered)] {
            self.memory
                .write_obj(word, GuestAddress(place))
                .expect("in memory");
        }
    }

    fn pop(&mut self) -> Result<(), QueueError> {
        let Some(chain) = self.queue.pop(&self.memory)? else {
            return Ok(());
        };
        let head = chain.head_index();
        assert!(head < ENTRIES, "a head that is in no table");
        assert!(!self.held.contains(&head), "held twice");
        self.held.push(head);
        assert!(self.held.len() <= usize::from(ENTRIES));
        self.may_put_back = true;
        if self.buffers.load(chain, &self.memory).is_ok() {
            check(self.buffers.readable(), &self.memory);
            check(self.buffers.writable(), &self.memory);
        }
        Ok(())
    }

    fn complete(&mut self, which: usize, written: u32) -> Result<(), QueueError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let head = self.held.remove(which % self.held.len());
        self.may_put_back = false;
        self.queue.complete(&self.memory, head, written)?;
        self.count(1);
        Ok(())
    }

    fn complete_together(&mut self) -> Result<(), QueueError> {
        let chains: Vec<(u16, u32)> = self.held.drain(..).map(|head| (head, 0)).collect();
        self.may_put_back = false;
        self.queue.complete_together(&self.memory, &chains)?;
        self.count(chains.len());
        Ok(())
    }

    /// So many more were answered; the ring says so whatever the driver had written there, unless nothing was.
    fn count(&mut self, more: usize) {
        let more = u16::try_from(more).expect("at most the size");
        self.answered = self.answered.wrapping_add(more);
        if more > 0 {
            let place = GuestAddress(USED + 2);
            let index: u16 = self.memory.read_obj(place).expect("in memory");
            assert_eq!(index, self.answered, "the used index");
        }
    }

    fn put_back(&mut self) {
        if std::mem::take(&mut self.may_put_back)
            && let Some(head) = self.held.pop()
        {
            self.queue.put_back(head);
        }
    }

    fn notify(&mut self) -> Result<(), QueueError> {
        self.queue.notify(&self.memory)?;
        self.queue.rearm(&self.memory).map(|_| ())
    }
}

/// All of a view can be read, and its pieces are as long as it says.
fn check(view: View<'_>, memory: &Memory) {
    assert!(view.range_count() <= MAX_SEGMENTS);
    let mut bytes = vec![0; view.len()];
    assert_eq!(view.read(memory, &mut bytes), bytes.len());
    let (front, back) = view.split_at(view.len() / 3);
    assert_eq!(front.len() + back.len(), view.len());
}
