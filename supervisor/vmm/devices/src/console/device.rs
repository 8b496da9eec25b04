//! The device: takes chains of the transmit queue and hands their bytes to the sink.

use std::fmt;
use std::sync::Arc;

use tracing::debug;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::ConsoleSink;
use crate::event_loop::{Interest, Ready, Registrar};
use crate::scatter::{Buffers, View};
use crate::state::QueuePosition;
use crate::virtio::{ActivateError, Activation, ActiveQueue, Memory, QueueError, VirtioDevice};

/// Most bytes taken from one chain; the rest is dropped. A guest that queues gigabytes per kick does not hold the loop.
pub const MAX_OUTPUT: usize = 64 * 1024;

/// Bytes copied at a time.
const CHUNK: usize = 4096;

const QUEUE_SIZES: [u16; 2] = [64, 64];

const KICK: u32 = 0;

#[derive(Debug)]
struct Active {
    memory: Memory,
    /// Never read, but held: its kick is the driver's to write.
    receive: ActiveQueue,
    transmit: ActiveQueue,
}

/// The device.
pub struct Console {
    sink: Arc<dyn ConsoleSink>,
    buffers: Buffers,
    active: Option<Active>,
}

impl fmt::Debug for Console {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Console")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

impl Console {
    /// A console that prints to `sink`.
    pub fn new(sink: Arc<dyn ConsoleSink>) -> Self {
        Self {
            sink,
            buffers: Buffers::default(),
            active: None,
        }
    }
}

/// One turn; returns whether there may be more.
fn turn(
    active: &mut Active,
    buffers: &mut Buffers,
    sink: &dyn ConsoleSink,
) -> Result<bool, QueueError> {
    let Active {
        memory, transmit, ..
    } = active;
    for _ in 0..transmit.budget() {
        let Some(chain) = transmit.pop(memory)? else {
            transmit.notify(memory)?;
            return transmit.rearm(memory);
        };
        let head = chain.head_index();
        // A chain that cannot be read is given back like any other.
        if buffers.load(chain, memory).is_ok() {
            print(memory, buffers.readable(), sink);
        }
        // Nothing is ever written to the driver's buffers.
        transmit.complete(memory, head, 0)?;
    }
    transmit.notify(memory)?;
    Ok(true)
}

/// Hands the readable bytes of a chain to the sink, up to [`MAX_OUTPUT`].
fn print(memory: &Memory, readable: View<'_>, sink: &dyn ConsoleSink) {
    let (mut rest, _) = readable.split_at(MAX_OUTPUT);
    let mut chunk = [0; CHUNK];
    while !rest.is_empty() {
        let count = rest.read(memory, &mut chunk);
        match chunk.get(..count) {
            Some(part) if !part.is_empty() => sink.write(part),
            _ => return,
        }
        rest = rest.after(count);
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        // Neither size, nor several ports, nor emergency write: so configuration has no meaning.
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let memory = Memory::clone(&activation.memory);
        let [receive, transmit] = activation.queues_exactly()?;
        registrar.add(&transmit.kick, KICK, Interest::Read)?;
        transmit.kick_again();
        self.active = Some(Active {
            memory,
            receive,
            transmit,
        });
        Ok(())
    }

    fn handle(&mut self, _token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.transmit.drain_kick();
        match turn(active, &mut self.buffers, self.sink.as_ref()) {
            Ok(false) => {}
            Ok(true) => active.transmit.kick_again(),
            Err(error) => {
                debug!(%error, "console");
                active.transmit.interrupt.needs_reset();
                self.reset(registrar);
            }
        }
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let active = self.active.iter();
        active
            .flat_map(|active| [&active.receive, &active.transmit])
            .map(ActiveQueue::position)
            .collect()
    }

    fn reset(&mut self, registrar: &mut Registrar<'_>) {
        if let Some(active) = self.active.take() {
            let _ = registrar.remove(&active.transmit.kick);
        }
    }
}
