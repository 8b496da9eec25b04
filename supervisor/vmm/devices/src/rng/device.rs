//! The device: takes chains, fills them, waits when the bucket is empty.

use std::io;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tracing::{debug, error};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::timerfd::TimerFd;

use super::{Bucket, Clock};
use crate::event_loop::{Interest, Ready, Registrar};
use crate::scatter::{Buffers, View};
use crate::state::QueuePosition;
use crate::virtio::{ActivateError, Activation, ActiveQueue, Memory, QueueError, VirtioDevice};

/// Most bytes for one request: a guest that asks for 4 GiB gets these, and a second turn like everyone.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Bytes at once and per second: a guest cannot spend the host's processor on random bytes.
const BURST: u64 = 256 * 1024;
const PER_SECOND: u64 = 1024 * 1024;

/// How long to wait when the bucket is empty: about 10 KiB.
const REFILL: Duration = Duration::from_millis(10);

const QUEUE_SIZES: [u16; 1] = [64];

const KICK: u32 = 0;
const TIMER: u32 = 1;

#[derive(Debug)]
struct Active {
    memory: Memory,
    queue: ActiveQueue,
}

/// The device.
#[derive(Debug)]
pub struct Rng {
    clock: Box<dyn Clock>,
    bucket: Bucket,
    buffers: Buffers,
    /// Wakes the device when the bucket has something again.
    timer: TimerFd,
    active: Option<Active>,
}

/// Why a turn ended.
enum Turn {
    Empty,
    /// There may be more, but others come first.
    BudgetSpent,
    /// There is more, but not now.
    OutOfTokens,
}

impl Rng {
    /// A device that measures its rate with `clock`.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn new(clock: Box<dyn Clock>) -> io::Result<Self> {
        Ok(Self {
            bucket: Bucket::new(BURST, PER_SECOND, clock.now()),
            clock,
            buffers: Buffers::default(),
            timer: TimerFd::new()?,
            active: None,
        })
    }

    fn turn(&mut self, active: &mut Active) -> Result<Turn, QueueError> {
        let Active { memory, queue } = active;
        let mut turn = Turn::BudgetSpent;
        for _ in 0..queue.budget() {
            let Some(chain) = queue.pop(memory)? else {
                turn = Turn::Empty;
                break;
            };
            let head = chain.head_index();
            if self.buffers.load(chain, memory).is_err() {
                queue.complete(memory, head, 0)?;
                continue;
            }
            let (room, _) = self.buffers.writable().split_at(MAX_REQUEST);
            let wanted = u64::try_from(room.len()).unwrap_or(0);
            let tokens = self.bucket.take(wanted, self.clock.now());
            if tokens == 0 && wanted > 0 {
                queue.put_back(head);
                turn = Turn::OutOfTokens;
                break;
            }
            let (room, _) = room.split_at(usize::try_from(tokens).unwrap_or(0));
            let written = fill(memory, room);
            queue.complete(memory, head, written)?;
        }
        queue.notify(memory)?;
        // With event indexes the driver kicks only past the index set here.
        if matches!(turn, Turn::Empty) && queue.rearm(memory)? {
            turn = Turn::BudgetSpent;
        }
        Ok(turn)
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let memory = Memory::clone(&activation.memory);
        let [queue] = activation.queues_exactly()?;
        registrar.add(&queue.kick, KICK, Interest::Read)?;
        let active = self.active.insert(Active { memory, queue });
        active.queue.kick_again();
        registrar.add(&self.timer, TIMER, Interest::Read)?;
        Ok(())
    }

    fn handle(&mut self, token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        // Taken out while in use, because a turn also needs the bucket.
        let Some(mut active) = self.active.take() else {
            return;
        };
        match token {
            KICK => active.queue.drain_kick(),
            // One shot: disarmed, it is no longer ready.
            _ => drop(self.timer.clear()),
        }
        let turn = self.turn(&mut active);
        let active = self.active.insert(active);
        match turn {
            Ok(Turn::Empty) => {}
            Ok(Turn::BudgetSpent) => active.queue.kick_again(),
            Ok(Turn::OutOfTokens) => {
                if let Err(error) = self.timer.reset(REFILL, None) {
                    error!(%error, "timer of the random number device");
                }
            }
            Err(error) => {
                debug!(%error, "random number device");
                active.queue.interrupt.needs_reset();
                self.reset(registrar);
            }
        }
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let active = self.active.iter();
        active.map(|active| active.queue.position()).collect()
    }

    fn reset(&mut self, registrar: &mut Registrar<'_>) {
        let _ = self.timer.clear();
        if let Some(active) = self.active.take() {
            let _ = registrar.remove(&active.queue.kick);
            let _ = registrar.remove(&self.timer);
        }
    }
}

/// Fills `room` with random bytes; returns how many were written.
fn fill(memory: &Memory, room: View<'_>) -> u32 {
    let mut random = vec![0; room.len().min(MAX_REQUEST)];
    if let Err(error) = random_bytes(&mut random) {
        error!(%error, "the host has no random bytes");
        return 0;
    }
    u32::try_from(room.write(memory, &random)).unwrap_or(0)
}

fn random_bytes(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Ok(len) => buffer = buffer.get_mut(len..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
