//! The block device: each queue has a worker of its own, which takes requests in order and answers each before the next.
//!
//! A worker is a loop whose thread may wait for the disk. The device itself, which vCPU threads lock for
//! configuration and activation, never does; only a reset waits, until every worker has finished the one request
//! that it is at.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use vm_memory::GuestMemoryMmap;

use super::config::{self, Access, Serial};
use super::disk::Disk;
use super::request::{Refusal, Request, status};
use crate::config_space;
use crate::event_loop::{
    EventLoop, Interest, Ready, Registrar, Subscriber, SubscriberId, WeakEventLoop,
};
use crate::lock;
use crate::scatter::Buffers;
use crate::state::{QueuePosition, StateError};
use crate::throttle::Throttle;
use crate::virtio::{
    ActivateError, Activation, ActiveQueue, MAX_QUEUE_SIZE, Memory, QueueError, VirtioDevice,
};

/// The virtio device number.
const DEVICE_TYPE: u32 = 2;
/// Most queues, and so workers, of one disk.
pub const MAX_QUEUES: usize = 8;
const QUEUES: [u16; MAX_QUEUES] = [MAX_QUEUE_SIZE; MAX_QUEUES];
/// Requests between two signals, so that the guest works on answers while the rest of a long batch is served.
const SIGNAL_EVERY: usize = 16;

const STATUS_OK: u8 = 0;

/// A virtio-blk device over one [`Disk`].
pub struct Block {
    backing: Arc<Backing>,
    workers: Vec<Worker>,
}

/// What all workers share.
struct Backing {
    disk: Box<dyn Disk>,
    serial: Serial,
    access: Access,
}

/// One queue's loop, and its lane on it.
struct Worker {
    /// Weak, because a loop may hold the device.
    event_loop: WeakEventLoop,
    subscriber: SubscriberId,
    lane: Arc<Mutex<Lane>>,
    /// Asks the lane to let go after the request that it is at.
    halt: Arc<AtomicBool>,
}

/// One queue and what serves it; locked by its worker while it works.
struct Lane {
    backing: Arc<Backing>,
    halt: Arc<AtomicBool>,
    buffers: Buffers,
    failures: Throttle,
    /// `None` while inactive, and once its rings turned out broken.
    active: Option<(Memory, ActiveQueue)>,
}

impl fmt::Debug for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Block")
            .field("serial", &self.backing.serial)
            .field("access", &self.backing.access)
            .field("queues", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl Block {
    /// A device that is not active yet, with a queue for each of `loops`, at most [`MAX_QUEUES`]. The threads of these
    /// loops wait for the disk, so nothing else should be on them.
    pub fn new(disk: Box<dyn Disk>, serial: Serial, access: Access, loops: Vec<EventLoop>) -> Self {
        let backing = Arc::new(Backing {
            disk,
            serial,
            access,
        });
        let worker = |event_loop: EventLoop| {
            let halt = Arc::new(AtomicBool::new(false));
            let lane = Arc::new(Mutex::new(Lane {
                backing: Arc::clone(&backing),
                halt: Arc::clone(&halt),
                buffers: Buffers::default(),
                failures: Throttle::default(),
                active: None,
            }));
            Worker {
                subscriber: event_loop.add(Arc::clone(&lane)),
                event_loop: event_loop.downgrade(),
                lane,
                halt,
            }
        };
        let workers = loops.into_iter().take(MAX_QUEUES).map(worker).collect();
        Self { backing, workers }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The loop holds the lane, and with it the disk: an unplugged one is let go.
        if let Some(event_loop) = self.event_loop.upgrade() {
            event_loop.remove(self.subscriber);
        }
    }
}

impl Lane {
    /// One turn of the queue.
    fn serve(&mut self) -> Result<(), QueueError> {
        let Some((memory, queue)) = &mut self.active else {
            return Ok(());
        };
        queue.drain_kick();
        // Polls of an empty queue count: a driver that adds and takes back must not keep the thread.
        for served in 1..=queue.budget() {
            if self.halt.load(Ordering::Acquire) {
                break;
            }
            let Some(chain) = queue.pop(memory)? else {
                if queue.rearm(memory)? {
                    continue;
                }
                return queue.notify(memory);
            };
            let head = chain.head_index();
            let written = match self.buffers.load(chain, memory) {
                Ok(()) => answer(&self.backing, &mut self.failures, &self.buffers, memory),
                // Nothing of it can be trusted, not even where the status would be.
                Err(_bad) => 0,
            };
            queue.complete(memory, head, written)?;
            if served.is_multiple_of(SIGNAL_EVERY) {
                queue.notify(memory)?;
            }
        }
        queue.kick_again();
        queue.notify(memory)
    }
}

impl Subscriber for Lane {
    fn handle(&mut self, _token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        let Err(error) = self.serve() else {
            return;
        };
        if self.failures.allows(Instant::now()) {
            let serial = &self.backing.serial;
            tracing::warn!(%serial, %error, "a queue of the disk is unusable");
        }
        if let Some((_, queue)) = self.active.take() {
            let _ = registrar.remove(&queue.kick);
            queue.interrupt.needs_reset();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the loop of a disk has ended")
}

/// Carries one request out and writes its status; returns the number of bytes written for the driver.
fn answer(
    backing: &Backing,
    failures: &mut Throttle,
    buffers: &Buffers,
    memory: &GuestMemoryMmap,
) -> u32 {
    let Some(status) = status(buffers) else {
        return 0;
    };
    let disk = &*backing.disk;
    let outcome =
        Request::parse(buffers, memory, disk.size(), backing.access).and_then(|request| {
            execute(disk, &backing.serial, &request, memory).map_err(|error| {
            if failures.allows(Instant::now()) {
                tracing::warn!(serial = %backing.serial, %error, "a request to the disk failed");
            }
            Refusal::IoError
        })
        });
    let (code, data) = match outcome {
        Ok(data) => (STATUS_OK, data),
        Err(refusal) => (refusal as u8, 0),
    };
    status.write(memory, &[code]);
    u32::try_from(data).unwrap_or(u32::MAX).saturating_add(1)
}

/// Returns the number of data bytes written for the driver.
fn execute(
    disk: &dyn Disk,
    serial: &Serial,
    request: &Request<'_>,
    memory: &GuestMemoryMmap,
) -> io::Result<usize> {
    match *request {
        Request::Read { offset, into } => disk.read_at(memory, into, offset).map(|()| into.len()),
        Request::Write { offset, from } => disk.write_at(memory, from, offset).map(|()| 0),
        Request::Flush => disk.flush().map(|()| 0),
        Request::Identify { into } => Ok(into.write(memory, serial.as_bytes())),
        Request::Discard(ref ranges) => ranges
            .iter()
            .try_for_each(|range| disk.discard(range.offset, range.length))
            .map(|()| 0),
        Request::WriteZeroes(ref ranges) => ranges
            .iter()
            .try_for_each(|range| disk.write_zeroes(range.offset, range.length, range.unmap))
            .map(|()| 0),
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUES.get(..self.workers.len()).unwrap_or(&QUEUES)
    }

    fn queues_needed(&self, _features: u64) -> usize {
        1
    }

    fn queues_possible(&self, features: u64) -> usize {
        if features & config::feature::MQ == 0 {
            1
        } else {
            self.workers.len()
        }
    }

    fn features(&self) -> u64 {
        config::features(self.backing.access, self.workers.len())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = config::encode(self.backing.disk.size(), self.workers.len());
        config_space::read(&space, offset, data);
    }

    fn activate(
        &mut self,
        activation: Activation,
        _registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let Activation { memory, queues, .. } = activation;
        if queues.is_empty() || queues.len() > self.workers.len() {
            return Err(ActivateError::Queues {
                got: queues.len(),
                expected: self.workers.len(),
            });
        }
        for (worker, queue) in self.workers.iter().zip(queues) {
            let event_loop = worker.event_loop.upgrade().ok_or_else(gone)?;
            let mut registrar = event_loop.registrar(worker.subscriber);
            // Kept before it is watched: a reset after a failure takes back what was.
            let mut lane = lock(&worker.lane);
            let (_, queue) = lane.active.insert((Memory::clone(&memory), queue));
            registrar.add(&queue.kick, 0, Interest::Read)?;
        }
        Ok(())
    }

    fn handle(&mut self, _token: u32, _ready: Ready, _registrar: &mut Registrar<'_>) {
        // Nothing of the device itself is on a loop.
    }

    fn quiesce(&mut self) -> io::Result<()> {
        // An overlay keeps part of its tables in memory.
        self.backing.disk.flush()
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let position = |worker: &Worker| {
            let lane = lock(&worker.lane);
            lane.active.as_ref().map(|(_, queue)| queue.position())
        };
        self.workers.iter().filter_map(position).collect()
    }

    fn save(&self) -> Vec<u8> {
        self.backing.disk.size().to_le_bytes().to_vec()
    }

    /// The driver knows the disk's size and serial: another disk under it would be taken for a broken one, or worse.
    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        let size = self.backing.disk.size();
        if saved == size.to_le_bytes() {
            Ok(())
        } else {
            let serial = &self.backing.serial;
            Err(StateError::Other(format!(
                "disk {serial} has {size} bytes now"
            )))
        }
    }

    fn reset(&mut self, _registrar: &mut Registrar<'_>) {
        for worker in &self.workers {
            worker.halt.store(true, Ordering::Release);
        }
        for worker in &self.workers {
            let active = lock(&worker.lane).active.take();
            if let (Some((_, queue)), Some(event_loop)) = (active, worker.event_loop.upgrade()) {
                let _ = event_loop.registrar(worker.subscriber).remove(&queue.kick);
            }
            worker.halt.store(false, Ordering::Release);
        }
    }
}
