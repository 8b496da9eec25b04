//! MSI-X of one function (PCI 3.0, 6.8.2): table, pending bits, masks.
//!
//! Shared by vCPU threads, which program it, and loop threads, which signal it. A vector that is masked when it is
//! signalled becomes pending and is sent when it is unmasked; nothing is lost and nothing is sent twice.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::warn;

use super::{BarIndex, Configuration, ConfigurationError, MsiMessage, MsiRouter, RouteId};
use crate::lock;
use crate::state::{StateError, VectorState};
use crate::throttle::Throttle;

/// Most vectors of a function: the table stays in one page.
pub const MAX_VECTORS: u16 = 256;

/// What virtio writes for "no vector".
pub const NO_VECTOR: u16 = 0xffff;

/// Number of the capability.
const CAPABILITY: u8 = 0x11;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;

/// Bytes of a table entry: address low and high, data, vector control.
const ENTRY: u64 = 16;
const VECTOR_MASKED: u32 = 1;

struct Vector {
    route: RouteId,
    message: MsiMessage,
    masked: bool,
    pending: bool,
    /// What the router knows; unlike `message` while the guest programs, or when the router refused it.
    routed: Option<MsiMessage>,
}

#[derive(Default)]
struct State {
    enabled: bool,
    function_masked: bool,
    vectors: Vec<Vector>,
    warnings: Throttle,
}

/// MSI-X state of one function.
pub struct Msix {
    router: Arc<dyn MsiRouter>,
    state: Mutex<State>,
}

impl fmt::Debug for Msix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Msix").finish_non_exhaustive()
    }
}

impl Msix {
    /// State with `count` vectors (1 to [`MAX_VECTORS`]), all masked, with a route each.
    ///
    /// # Errors
    /// When `count` is out of range or the router has no more routes.
    pub fn new(router: Arc<dyn MsiRouter>, count: u16) -> io::Result<Self> {
        if count == 0 || count > MAX_VECTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{count} MSI-X vectors, possible are 1 to {MAX_VECTORS}"),
            ));
        }
        let vectors = (0..count)
            .map(|_| {
                Ok(Vector {
                    route: router.allocate()?,
                    message: MsiMessage::default(),
                    masked: true,
                    pending: false,
                    routed: None,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            router,
            state: Mutex::new(State {
                vectors,
                ..State::default()
            }),
        })
    }

    /// Adds the capability that points at table and pending bits in `bar`; returns where its control register is.
    ///
    /// # Errors
    /// [`ConfigurationError`] when there is no room.
    pub fn add_capability(
        &self,
        configuration: &mut Configuration,
        bar: BarIndex,
        table: u32,
        pending: u32,
    ) -> Result<u16, ConfigurationError> {
        self.add_capability_at(configuration, (bar, table), (bar, pending))
    }

    /// Like [`Msix::add_capability`], with table and pending bits in BARs of their own.
    ///
    /// # Errors
    /// [`ConfigurationError`] when there is no room.
    pub fn add_capability_at(
        &self,
        configuration: &mut Configuration,
        table: (BarIndex, u32),
        pending: (BarIndex, u32),
    ) -> Result<u16, ConfigurationError> {
        let size = u16::try_from(self.len().saturating_sub(1)).unwrap_or(0);
        let mut body = size.to_le_bytes().to_vec();
        for (bar, offset) in [table, pending] {
            body.extend_from_slice(&(offset | u32::from(bar.number())).to_le_bytes());
        }
        let writable = (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes();
        let at = configuration.add_capability(CAPABILITY, &body, &writable)?;
        Ok(u16::from(at).saturating_add(2))
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        lock(&self.state).vectors.len()
    }

    /// Never: there is at least one vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The control register was written: enable and function mask.
    pub fn set_control(&self, control: u16) {
        let mut state = lock(&self.state);
        state.enabled = control & CONTROL_ENABLE != 0;
        state.function_masked = control & CONTROL_FUNCTION_MASK != 0;
        if state.delivers() {
            let State {
                vectors, warnings, ..
            } = &mut *state;
            for vector in vectors {
                vector.settle(self.router.as_ref(), warnings);
            }
        }
    }

    /// All vectors, for a snapshot. Control is in configuration space.
    pub fn save(&self) -> Vec<VectorState> {
        let state = lock(&self.state);
        let vectors = state.vectors.iter();
        vectors
            .map(|vector| VectorState {
                address: vector.message.address,
                data: vector.message.data,
                masked: vector.masked,
                pending: vector.pending,
            })
            .collect()
    }

    /// Takes saved vectors, each as if the guest had programmed it, and then the control register, which routes them and
    /// sends what was pending.
    ///
    /// # Errors
    /// [`StateError::Unfit`] when there are more or fewer of them, or one is what no guest can write.
    pub fn restore(&self, saved: &[VectorState], control: u16) -> Result<(), StateError> {
        let mut state = lock(&self.state);
        if state.vectors.len() != saved.len() {
            return Err(StateError::Unfit("it has another number of vectors"));
        }
        for (vector, saved) in state.vectors.iter_mut().zip(saved) {
            vector.write(0, low(saved.address));
            vector.write(4, low(saved.address >> 32));
            vector.write(8, saved.data);
            if vector.message.address != saved.address {
                return Err(StateError::Unfit("an interrupt has an odd address"));
            }
            vector.masked = saved.masked;
            vector.pending = saved.pending;
        }
        drop(state);
        self.set_control(control);
        Ok(())
    }

    /// Reads from the table; accesses other than aligned 4 or 8 bytes, and entries there are not, stay as they are.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        for (offset, place) in double_words(offset, data) {
            if let Some(vector) = state.vectors.get(index(offset)) {
                place.copy_from_slice(&vector.read(offset).to_le_bytes());
            }
        }
    }

    /// Writes to the table; other accesses than aligned 4 or 8 bytes, and to entries there are not, are ignored.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut data = data.to_vec();
        let mut state = lock(&self.state);
        let delivers = state.delivers();
        let mut last = None;
        for (offset, value) in double_words(offset, &mut data) {
            let value = u32::from_le_bytes(*value);
            if let Some(vector) = state.vectors.get_mut(index(offset)) {
                vector.write(offset, value);
                last = Some(index(offset));
            }
        }
        // Both halves of an 8-byte access are in one entry.
        if let Some(last) = last
            && delivers
        {
            state.settle(last, self.router.as_ref());
        }
    }

    /// Reads pending bits; same accesses as the table. Writes to them are ignored by whoever has the BAR.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        for (offset, place) in double_words(offset, data) {
            let first = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .saturating_mul(8);
            let bits = (0u32..32)
                .zip(state.vectors.iter().skip(first))
                .filter(|(_, vector)| vector.pending)
                .fold(0u32, |bits, (bit, _)| bits | 1u32.wrapping_shl(bit));
            *place = bits.to_le_bytes();
        }
    }

    /// Sends the interrupt of a vector, or keeps it pending while masked. A vector that does not exist, and any vector
    /// while MSI-X is disabled, is silent: there is no INTx to fall back on.
    pub fn signal(&self, vector_number: u16) {
        let mut state = lock(&self.state);
        if !state.enabled {
            return;
        }
        let delivers = state.delivers();
        if let Some(vector) = state.vectors.get_mut(usize::from(vector_number)) {
            vector.pending = true;
            if delivers {
                state.settle(usize::from(vector_number), self.router.as_ref());
            }
        }
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        for vector in &lock(&self.state).vectors {
            self.router.release(vector.route);
        }
    }
}

impl State {
    fn delivers(&self) -> bool {
        self.enabled && !self.function_masked
    }

    fn settle(&mut self, index: usize, router: &dyn MsiRouter) {
        if let Some(vector) = self.vectors.get_mut(index) {
            vector.settle(router, &mut self.warnings);
        }
    }
}

impl Vector {
    /// Brings the route up to date and sends what is pending, unless masked. The function delivers.
    fn settle(&mut self, router: &dyn MsiRouter, warnings: &mut Throttle) {
        if self.masked {
            return;
        }
        if self.routed != Some(self.message) {
            match router.update(self.route, self.message) {
                Ok(()) => self.routed = Some(self.message),
                Err(error) => {
                    if warnings.allows(Instant::now()) {
                        warn!(route = self.route.0, %error, "interrupt route was refused");
                    }
                    // Silent until it is programmed anew: a retry per signal would hammer the kernel.
                    self.masked = true;
                    return;
                }
            }
        }
        if std::mem::take(&mut self.pending) {
            router.trigger(self.route);
        }
    }

    fn read(&self, offset: u64) -> u32 {
        match offset % ENTRY {
            0 => low(self.message.address),
            4 => low(self.message.address >> 32),
            8 => self.message.data,
            _ => u32::from(self.masked),
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        let address = &mut self.message.address;
        match offset % ENTRY {
            0 => *address = (*address & !0xffff_ffff) | u64::from(value & !0b11),
            4 => *address = (*address & 0xffff_ffff) | (u64::from(value) << 32),
            8 => self.message.data = value,
            _ => self.masked = value & VECTOR_MASKED != 0,
        }
    }
}

fn low(value: u64) -> u32 {
    let [b0, b1, b2, b3, ..] = value.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

fn index(offset: u64) -> usize {
    usize::try_from(offset / ENTRY).unwrap_or(usize::MAX)
}

/// The 32-bit parts of an access, with their offsets; none when the access is not of aligned 4 or 8 bytes.
fn double_words(offset: u64, data: &mut [u8]) -> impl Iterator<Item = (u64, &mut [u8; 4])> {
    let len = data.len();
    let good =
        matches!(len, 4 | 8) && u64::try_from(len).is_ok_and(|len| offset.is_multiple_of(len));
    let (parts, _) = data.as_chunks_mut::<4>();
    let parts = if good { parts } else { &mut [] };
    let mut next = offset;
    parts.iter_mut().map(move |part| {
        let offset = next;
        next = next.saturating_add(4);
        (offset, part)
    })
}

#[cfg(test)]
mod tests;
