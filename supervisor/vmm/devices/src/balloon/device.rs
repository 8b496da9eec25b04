//! The device: reads what the guest gives, and says how much the host wants.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::discard::{PAGE, discard};
use crate::config_space;
use crate::event_loop::{Interest, Ready, Registrar};
use crate::scatter::{Buffers, View};
use crate::state::{QueuePosition, StateError};
use crate::throttle::Throttle;
use crate::virtio::{ActivateError, Activation, ActiveQueue, Memory, QueueError, VirtioDevice};

/// The virtio device number.
const DEVICE_TYPE: u32 = 5;
/// Inflate, deflate, hinting, reporting: those of features that were not negotiated are left out, and the later ones
/// move up.
const QUEUES: [u16; 4] = [128, 128, 128, 128];

const DEFLATE_ON_OOM: u64 = 1 << 2;
const FREE_PAGE_HINT: u64 = 1 << 3;
const REPORTING: u64 = 1 << 5;
const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;

/// Token of the handle's wake-up; queues are 0 to 3.
const WAKE: u32 = 16;

/// Most page numbers of one chain; a guest sends 256. The rest is ignored: one chain does not hold the loop.
pub const MAX_PFNS: usize = 1024;

/// Chains of one turn: each costs a system call per run of pages.
const TURN: usize = 16;

/// Hinting commands (virtio 1.2, 5.5.6.6.1); every other number is one round.
const HINT_STOP: u32 = 0;
const HINT_DONE: u32 = 1;

/// What the host wants and what the guest says.
#[derive(Debug, Default)]
struct Wishes {
    /// Pages that the guest should give.
    target: AtomicU32,
    /// Pages that it says it has given. Only a number: nothing depends on it.
    actual: AtomicU32,
    /// The current round of hinting, or a command.
    hint: AtomicU32,
    /// Rounds that the guest has ended.
    hinted: AtomicU32,
    /// Bytes given back to the kernel, ever.
    given: AtomicU64,
}

/// Asks a running guest for memory, from any thread.
#[derive(Clone)]
pub struct BalloonHandle {
    wishes: Arc<Wishes>,
    wake: Arc<EventFd>,
}

impl fmt::Debug for BalloonHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BalloonHandle")
            .field("wishes", &self.wishes)
            .finish_non_exhaustive()
    }
}

impl BalloonHandle {
    /// Asks the guest to give `pages` of [`PAGE`] bytes in all; less than before gives some back to it.
    pub fn set_target(&self, pages: u32) {
        self.wishes.target.store(pages, Ordering::Relaxed);
        self.wake();
    }

    /// Pages that the guest is asked to give.
    pub fn target(&self) -> u32 {
        self.wishes.target.load(Ordering::Relaxed)
    }

    /// Asks the guest to name every free page once, for instance before a snapshot. [`BalloonHandle::rounds`] counts up
    /// when it has; a guest without a driver never does.
    pub fn start_hinting(&self) {
        let next = |hint: u32| Some(hint.wrapping_add(1).max(HINT_DONE.wrapping_add(1)));
        let hint = &self.wishes.hint;
        let _ = hint.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        self.wake();
    }

    /// Rounds of hinting that have ended.
    pub fn rounds(&self) -> u32 {
        self.wishes.hinted.load(Ordering::Relaxed)
    }

    /// Pages that the guest says it has given.
    pub fn actual(&self) -> u32 {
        self.wishes.actual.load(Ordering::Relaxed)
    }

    /// Bytes given back to the kernel since the device was made.
    pub fn given(&self) -> u64 {
        self.wishes.given.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the loop is awake.
        let _ = self.wake.write(1);
    }
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Hint,
    Report,
}

/// A virtio-balloon device.
pub struct Balloon {
    handle: BalloonHandle,
    buffers: Buffers,
    warnings: Throttle,
    /// Page numbers of one chain, sorted, so that neighbours go in one call.
    pages: Vec<u32>,
    /// The guest's round in a snapshot, for the first activation after a restore.
    restored_round: u32,
    active: Option<Active>,
}

struct Active {
    memory: Memory,
    queues: Vec<(Role, ActiveQueue)>,
    /// The round that the guest is in, as it said itself.
    round: u32,
}

impl fmt::Debug for Balloon {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Balloon")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl Balloon {
    /// A device that wants nothing yet.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            handle: BalloonHandle {
                wishes: Arc::default(),
                wake: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?),
            },
            buffers: Buffers::default(),
            warnings: Throttle::default(),
            pages: Vec::new(),
            restored_round: HINT_STOP,
            active: None,
        })
    }

    /// Asks for memory.
    pub fn handle(&self) -> BalloonHandle {
        self.handle.clone()
    }

    /// One turn of the queue at `place`.
    fn turn(&mut self, active: &mut Active, place: usize) -> Result<(), QueueError> {
        let Active {
            memory,
            queues,
            round,
        } = active;
        let Some((role, queue)) = queues.get_mut(place) else {
            return Ok(());
        };
        queue.drain_kick();
        for _ in 0..TURN {
            let Some(chain) = queue.pop(memory)? else {
                if queue.rearm(memory)? {
                    continue;
                }
                return queue.notify(memory);
            };
            let head = chain.head_index();
            // A chain that cannot be read gives nothing and is given back.
            if self.buffers.load(chain, memory).is_ok() {
                match role {
                    Role::Inflate => self.inflate(memory),
                    // Nothing to do: see the module.
                    Role::Deflate => {}
                    Role::Hint => self.hint(memory, round, queue),
                    Role::Report => self.give_ranges(memory),
                }
            }
            queue.complete(memory, head, 0)?;
        }
        queue.kick_again();
        queue.notify(memory)
    }

    /// Gives back the pages whose numbers are in the chain.
    fn inflate(&mut self, memory: &Memory) {
        self.pages.clear();
        let mut rest = self.buffers.readable();
        let mut chunk = [0_u8; 1024];
        while self.pages.len() < MAX_PFNS && rest.len() >= 4 {
            let count = rest.read(memory, &mut chunk);
            let (numbers, _) = chunk.get(..count).unwrap_or_default().as_chunks::<4>();
            if numbers.is_empty() {
                break;
            }
            self.pages
                .extend(numbers.iter().map(|number| u32::from_le_bytes(*number)));
            rest = rest.after(numbers.len().saturating_mul(4));
        }
        self.pages.truncate(MAX_PFNS);
        self.pages.sort_unstable();
        self.pages.dedup();
        let pages = std::mem::take(&mut self.pages);
        for run in pages.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            if let (Some(first), Ok(count)) = (run.first(), u64::try_from(run.len())) {
                // 32 bits of page number and 12 of page: cannot wrap.
                let start = u64::from(*first).saturating_mul(PAGE);
                self.give(memory, start, count.saturating_mul(PAGE));
            }
        }
        self.pages = pages;
    }

    /// Gives back the buffers of the chain themselves.
    fn give_ranges(&mut self, memory: &Memory) {
        let buffers = std::mem::take(&mut self.buffers);
        for (address, len) in buffers.writable().ranges() {
            self.give(memory, address.0, u64::try_from(len).unwrap_or(0));
        }
        self.buffers = buffers;
    }

    /// A command of the guest, or free pages of the round that it began.
    fn hint(&mut self, memory: &Memory, round: &mut u32, queue: &ActiveQueue) {
        if let Some(command) = command(self.buffers.readable(), memory) {
            let wishes = &self.handle.wishes;
            let wanted = wishes.hint.load(Ordering::Relaxed);
            if command == HINT_STOP && *round == wanted && wanted > HINT_DONE {
                wishes.hinted.fetch_add(1, Ordering::Relaxed);
                // The guest keeps the pages it named until it hears that we are done.
                wishes.hint.store(HINT_DONE, Ordering::Relaxed);
                queue.interrupt.config_changed();
            }
            *round = command;
            return;
        }
        // Pages of a round that is over may be in use again.
        if *round == self.handle.wishes.hint.load(Ordering::Relaxed) && *round > HINT_DONE {
            self.give_ranges(memory);
        }
    }

    fn give(&mut self, memory: &Memory, start: u64, len: u64) {
        match discard(memory, start, len) {
            Ok(given) => {
                let count = &self.handle.wishes.given;
                count.fetch_add(given, Ordering::Relaxed);
            }
            Err(error) if self.warnings.allows(Instant::now()) => {
                tracing::warn!(%error, "the guest's memory could not be given back");
            }
            Err(_) => {}
        }
    }

    fn deactivate(&self, active: &Active, registrar: &mut Registrar<'_>) {
        for (_, queue) in &active.queues {
            let _ = registrar.remove(&queue.kick);
        }
        let _ = registrar.remove(&*self.handle.wake);
    }
}

/// The number in a chain that is a command.
fn command(readable: View<'_>, memory: &Memory) -> Option<u32> {
    readable.read_array(memory).map(u32::from_le_bytes)
}

/// What the queues are for, in order.
fn roles(features: u64) -> impl Iterator<Item = Role> {
    [
        (Role::Inflate, 0),
        (Role::Deflate, 0),
        (Role::Hint, FREE_PAGE_HINT),
        (Role::Report, REPORTING),
    ]
    .into_iter()
    .filter(move |(_, feature)| features & feature == *feature)
    .map(|(role, _)| role)
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn queues_needed(&self, features: u64) -> usize {
        roles(features).count()
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | FREE_PAGE_HINT | REPORTING | RING_INDIRECT_DESC | RING_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let wishes = &self.handle.wishes;
        let words = [&wishes.target, &wishes.actual, &wishes.hint];
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] =
            words.map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        config_space::read(&[a, b, c, d, e, f, g, h, i, j, k, l], offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // The only field of the driver's; a poison value is not negotiated.
        if let (4, Ok(bytes)) = (offset, data.try_into()) {
            let actual = u32::from_le_bytes(bytes);
            self.handle.wishes.actual.store(actual, Ordering::Relaxed);
        }
    }

    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let Activation {
            memory,
            queues,
            features,
        } = activation;
        let expected = self.queues_needed(features);
        if queues.len() != expected {
            return Err(ActivateError::Queues {
                got: queues.len(),
                expected,
            });
        }
        // Kept before they are watched: a reset after a failure takes back what was.
        let active = self.active.insert(Active {
            memory,
            queues: roles(features).zip(queues).collect(),
            round: std::mem::replace(&mut self.restored_round, HINT_STOP),
        });
        for (token, (_, queue)) in (0..).zip(&active.queues) {
            registrar.add(&queue.kick, token, Interest::Read)?;
            queue.kick_again();
        }
        registrar.add(&*self.handle.wake, WAKE, Interest::Read)?;
        Ok(())
    }

    fn handle(&mut self, token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        let result = if token == WAKE {
            let _ = self.handle.wake.read();
            if let Some((_, queue)) = active.queues.first() {
                queue.interrupt.config_changed();
            }
            Ok(())
        } else {
            self.turn(&mut active, usize::try_from(token).unwrap_or(usize::MAX))
        };
        match result {
            Ok(()) => self.active = Some(active),
            Err(error) => {
                if self.warnings.allows(Instant::now()) {
                    tracing::warn!(%error, "a queue of the balloon is unusable");
                }
                self.deactivate(&active, registrar);
                if let Some((_, queue)) = active.queues.first() {
                    queue.interrupt.needs_reset();
                }
            }
        }
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let active = self.active.iter();
        active
            .flat_map(|active| &active.queues)
            .map(|(_, queue)| queue.position())
            .collect()
    }

    /// Target, what the guest says it has given, and the round of hinting: of the host and of the guest.
    fn save(&self) -> Vec<u8> {
        let wishes = &self.handle.wishes;
        let [target, actual, hint] =
            [&wishes.target, &wishes.actual, &wishes.hint].map(|word| word.load(Ordering::Relaxed));
        let round = self.active.as_ref().map_or(0, |active| active.round);
        [target, actual, hint, round].map(u32::to_le_bytes).concat()
    }

    /// Any four numbers are safe: they are what a guest writes, or numbers that it is shown.
    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        let (words, rest) = saved.as_chunks::<4>();
        let (Ok([target, actual, hint, round]), []) = (<[[u8; 4]; 4]>::try_from(words), rest)
        else {
            return Err(StateError::Unfit("the balloon's own state"));
        };
        let wishes = &self.handle.wishes;
        wishes
            .target
            .store(u32::from_le_bytes(target), Ordering::Relaxed);
        wishes
            .actual
            .store(u32::from_le_bytes(actual), Ordering::Relaxed);
        wishes
            .hint
            .store(u32::from_le_bytes(hint), Ordering::Relaxed);
        self.restored_round = u32::from_le_bytes(round);
        Ok(())
    }

    fn reset(&mut self, registrar: &mut Registrar<'_>) {
        if let Some(active) = self.active.take() {
            self.deactivate(&active, registrar);
        }
        self.handle.wishes.actual.store(0, Ordering::Relaxed);
    }
}
