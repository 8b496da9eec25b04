//! The block device: takes requests in order, answers each before it takes the next.

use std::fmt;
use std::io;
use std::time::Instant;

use vm_memory::GuestMemoryMmap;

use super::config::{self, Access, Serial};
use super::disk::Disk;
use super::request::{Refusal, Request, status};
use crate::config_space;
use crate::event_loop::{Interest, Ready, Registrar};
use crate::scatter::Buffers;
use crate::state::{QueuePosition, StateError};
use crate::throttle::Throttle;
use crate::virtio::{
    ActivateError, Activation, ActiveQueue, MAX_QUEUE_SIZE, Memory, QueueError, VirtioDevice,
};

/// The virtio device number.
const DEVICE_TYPE: u32 = 2;
/// One queue serves one thread; the code below does not depend on the number.
const QUEUES: [u16; 1] = [MAX_QUEUE_SIZE];
/// Requests between two signals, so that the guest works on answers while the rest of a long batch is served.
const SIGNAL_EVERY: usize = 16;

const STATUS_OK: u8 = 0;

/// A virtio-blk device over one [`Disk`]. Give it an event loop of its own: it waits for the disk.
pub struct Block {
    engine: Engine,
    buffers: Buffers,
    state: State,
}

enum State {
    Inactive,
    Active {
        memory: Memory,
        /// `None` once its rings turned out broken.
        queues: Vec<Option<ActiveQueue>>,
    },
}

impl fmt::Debug for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Block")
            .field("serial", &self.engine.serial)
            .field("access", &self.engine.access)
            .finish_non_exhaustive()
    }
}

impl Block {
    /// A device that is not active yet.
    pub fn new(disk: Box<dyn Disk>, serial: Serial, access: Access) -> Self {
        Self {
            engine: Engine {
                disk,
                serial,
                access,
                failures: Throttle::default(),
            },
            buffers: Buffers::default(),
            state: State::Inactive,
        }
    }
}

/// One turn of one queue.
fn serve(
    engine: &mut Engine,
    buffers: &mut Buffers,
    memory: &Memory,
    queue: &mut ActiveQueue,
) -> Result<(), QueueError> {
    queue.drain_kick();
    let mut served = 0_usize;
    loop {
        if served >= queue.budget() {
            queue.kick_again();
            break;
        }
        let Some(chain) = queue.pop(memory)? else {
            if queue.rearm(memory)? {
                continue;
            }
            break;
        };
        let head = chain.head_index();
        let written = match buffers.load(chain, memory) {
            Ok(()) => engine.answer(buffers, memory),
            // Nothing of it can be trusted, not even where the status would be.
            Err(_bad) => 0,
        };
        queue.complete(memory, head, written)?;
        served = served.saturating_add(1);
        if served.is_multiple_of(SIGNAL_EVERY) {
            queue.notify(memory)?;
        }
    }
    queue.notify(memory)
}

/// What carries requests out, apart from the queues they come from.
struct Engine {
    disk: Box<dyn Disk>,
    serial: Serial,
    access: Access,
    failures: Throttle,
}

impl Engine {
    /// Carries one request out and writes its status; returns the number of bytes written for the driver.
    fn answer(&mut self, buffers: &Buffers, memory: &GuestMemoryMmap) -> u32 {
        let Some(status) = status(buffers) else {
            return 0;
        };
        let outcome = Request::parse(buffers, memory, self.disk.size(), self.access)
            .and_then(|request| self.execute(&request, memory));
        let (code, data) = match outcome {
            Ok(data) => (STATUS_OK, data),
            Err(refusal) => (refusal as u8, 0),
        };
        status.write(memory, &[code]);
        u32::try_from(data).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Returns the number of data bytes written for the driver.
    fn execute(
        &mut self,
        request: &Request<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<usize, Refusal> {
        let disk = &mut self.disk;
        let result = match *request {
            Request::Read { offset, into } => {
                disk.read_at(memory, into, offset).map(|()| into.len())
            }
            Request::Write { offset, from } => disk.write_at(memory, from, offset).map(|()| 0),
            Request::Flush => disk.flush().map(|()| 0),
            Request::Identify { into } => Ok(into.write(memory, self.serial.as_bytes())),
            Request::Discard(ref ranges) => ranges
                .iter()
                .try_for_each(|range| disk.discard(range.offset, range.length))
                .map(|()| 0),
            Request::WriteZeroes(ref ranges) => ranges
                .iter()
                .try_for_each(|range| disk.write_zeroes(range.offset, range.length, range.unmap))
                .map(|()| 0),
        };
        result.map_err(|error| {
            if self.failures.allows(Instant::now()) {
                tracing::warn!(serial = %self.serial, %error, "a request to the disk failed");
            }
            Refusal::IoError
        })
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        config::features(self.engine.access)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&config::encode(self.engine.disk.size()), offset, data);
    }

    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let Activation { memory, queues, .. } = activation;
        if queues.len() != QUEUES.len() {
            return Err(ActivateError::Queues {
                got: queues.len(),
                expected: QUEUES.len(),
            });
        }
        // Kept before they are watched: a reset after a failure takes back what was.
        let queues = queues.into_iter().map(Some).collect();
        self.state = State::Active { memory, queues };
        if let State::Active { queues, .. } = &self.state {
            for (token, queue) in (0..).zip(queues.iter().flatten()) {
                registrar.add(&queue.kick, token, Interest::Read)?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        let State::Active { memory, queues } = &mut self.state else {
            return;
        };
        let index = usize::try_from(token).unwrap_or(usize::MAX);
        let Some(place) = queues.get_mut(index) else {
            return;
        };
        let Some(queue) = place else {
            return;
        };
        if let Err(error) = serve(&mut self.engine, &mut self.buffers, memory, queue) {
            if self.engine.failures.allows(Instant::now()) {
                tracing::warn!(serial = %self.engine.serial, %error, "a queue of the disk is unusable");
            }
            let _ = registrar.remove(&queue.kick);
            queue.interrupt.needs_reset();
            *place = None;
        }
    }

    fn quiesce(&mut self) -> io::Result<()> {
        // An overlay keeps part of its tables in memory.
        self.engine.disk.flush()
    }

    fn positions(&self) -> Vec<QueuePosition> {
        match &self.state {
            State::Inactive => Vec::new(),
            State::Active { queues, .. } => {
                queues.iter().flatten().map(ActiveQueue::position).collect()
            }
        }
    }

    fn save(&self) -> Vec<u8> {
        self.engine.disk.size().to_le_bytes().to_vec()
    }

    /// The driver knows the disk's size and serial: another disk under it would be taken for a broken one, or worse.
    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        let size = self.engine.disk.size();
        if saved == size.to_le_bytes() {
            Ok(())
        } else {
            let serial = &self.engine.serial;
            Err(StateError::Other(format!(
                "disk {serial} has {size} bytes now"
            )))
        }
    }

    fn reset(&mut self, registrar: &mut Registrar<'_>) {
        if let State::Active { queues, .. } = std::mem::replace(&mut self.state, State::Inactive) {
            for queue in queues.into_iter().flatten() {
                let _ = registrar.remove(&queue.kick);
            }
        }
    }
}
