//! The root of bus 0: which function is in which slot, and where its BARs are decoded.
//!
//! After every configuration write the root compares where the function's BARs should be with where they are, and
//! moves them on the bus of memory or of ports. A BAR that the guest puts outside the PCI windows, or over another device,
//! is not decoded: memory, interrupt controllers, configuration space and the ports of the machine cannot be shadowed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tracing::debug;

use super::host_bridge::HostBridge;
use super::{BarIndex, BarKind, PciFunction};
use crate::bus::{Bus, BusDevice};
use crate::lock;
use crate::state::{FunctionState, StateError};

/// Number of the last slot. The first one, 0, has the host bridge.
const LAST_SLOT: u8 = 31;

/// Bytes of configuration space that functions have.
const HEADER: u16 = 256;

/// A device number on bus 0: 1 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=LAST_SLOT).map(Self)
    }

    /// The slot of a device number; there is none of 0 and of more than 31.
    pub fn new(number: u8) -> Option<Self> {
        (1..=LAST_SLOT).contains(&number).then_some(Self(number))
    }

    /// The device number, as in the guest's `00:NN.0`.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// Why a function was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// All 31 slots are taken.
    #[error("no free slot on PCI bus 0")]
    NoSlot,
    /// The window of memory or of ports cannot hold another BAR.
    #[error("no room for a BAR of {len:#x} in the PCI window")]
    NoRoom {
        /// Length of the BAR.
        len: u64,
    },
}

/// One BAR on the bus of memory or of ports.
struct BarAccess {
    function: Arc<Mutex<dyn PciFunction>>,
    bar: BarIndex,
}

impl BusDevice for BarAccess {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        lock(&self.function).bar_read(self.bar, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        lock(&self.function).bar_write(self.bar, offset, data);
    }
}

/// Which bus a BAR is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Memory,
    Ports,
}

impl From<BarKind> for Side {
    fn from(kind: BarKind) -> Self {
        match kind {
            BarKind::Memory32 | BarKind::Memory64 => Self::Memory,
            BarKind::Ports => Self::Ports,
        }
    }
}

struct PlacedBar {
    bar: BarIndex,
    side: Side,
    /// Where it was put when it was added.
    home: Range<u64>,
    len: u64,
    access: Arc<Mutex<BarAccess>>,
    /// What configuration space asked for when it was last looked at, and whether the bus took it.
    wanted: Option<u64>,
    decoded: bool,
}

struct Occupied {
    function: Arc<Mutex<dyn PciFunction>>,
    bars: Vec<PlacedBar>,
}

impl Occupied {
    /// Where its BARs of one side were put, and where the guest has moved them.
    fn addresses(&self, side: Side) -> impl Iterator<Item = Range<u64>> {
        let bars = self.bars.iter().filter(move |placed| placed.side == side);
        bars.flat_map(|placed| {
            let moved = placed.wanted.filter(|_| placed.decoded);
            let moved = moved.map(|start| start..start.saturating_add(placed.len));
            [Some(placed.home.clone()), moved].into_iter().flatten()
        })
    }
}

/// Occupied device numbers.
type Slots = BTreeMap<u8, Occupied>;

/// PCI bus 0.
pub struct PciRoot {
    memory_bus: Arc<Bus>,
    windows: Vec<Range<u64>>,
    port_bus: Arc<Bus>,
    port_window: Range<u64>,
    slots: Mutex<Slots>,
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PciRoot")
            .field("windows", &self.windows)
            .field("port_window", &self.port_window)
            .finish_non_exhaustive()
    }
}

impl PciRoot {
    /// A bus with only the host bridge. `windows` are the guest addresses where BARs may be, as told to the guest in
    /// ACPI; new functions get places in the last one, and in the first one for BARs of 32 bits. No window may touch guest memory or a fixed device.
    /// Without [`PciRoot::with_ports`] there is no place for BARs of ports.
    pub fn new(memory_bus: Arc<Bus>, windows: Vec<Range<u64>>) -> Self {
        let bridge = Occupied {
            function: Arc::new(Mutex::new(HostBridge::new())),
            bars: Vec::new(),
        };
        Self {
            memory_bus,
            windows,
            port_bus: Arc::default(),
            port_window: 0..0,
            slots: Mutex::new(BTreeMap::from([(0, bridge)])),
        }
    }

    /// Gives BARs of ports a bus and a window, as told to the guest in ACPI. No device of another kind may be in it.
    #[must_use]
    pub fn with_ports(mut self, port_bus: Arc<Bus>, window: Range<u64>) -> Self {
        self.port_bus = port_bus;
        self.port_window = window;
        self
    }

    /// Puts a function into the first free slot and gives its BARs free addresses, which are decoded at once if the
    /// function comes with memory decoding on and else when the guest enables it.
    ///
    /// # Errors
    /// [`PciError`] when slots or addresses are used up.
    pub fn add(&self, function: Arc<Mutex<dyn PciFunction>>) -> Result<Slot, PciError> {
        let mut slots = lock(&self.slots);
        let slot = Slot::all()
            .find(|slot| !slots.contains_key(&slot.number()))
            .ok_or(PciError::NoSlot)?;
        let addresses = |side| -> Vec<_> {
            let slots = slots.values();
            slots.flat_map(|slot| slot.addresses(side)).collect()
        };
        let mut taken_memory = addresses(Side::Memory);
        let mut taken_ports = addresses(Side::Ports);
        let mut bars = Vec::new();
        for bar in BarIndex::ALL {
            let mut held = lock(&function);
            let configuration = held.configuration();
            let (Some(len), Some(kind)) = (configuration.bar_len(bar), configuration.bar_kind(bar))
            else {
                continue;
            };
            let (window, taken) = match kind {
                BarKind::Memory32 => (self.windows.first(), &mut taken_memory),
                BarKind::Memory64 => (self.windows.last(), &mut taken_memory),
                BarKind::Ports => (Some(&self.port_window), &mut taken_ports),
            };
            let home = window
                .and_then(|window| free(window, taken, len))
                .ok_or(PciError::NoRoom { len })?;
            held.configuration().place_bar(bar, home.start);
            taken.push(home.clone());
            let function = Arc::clone(&function);
            bars.push(PlacedBar {
                bar,
                side: kind.into(),
                home,
                len,
                access: Arc::new(Mutex::new(BarAccess { function, bar })),
                wanted: None,
                decoded: false,
            });
        }
        let mut occupied = Occupied { function, bars };
        self.settle(&mut occupied);
        slots.insert(slot.number(), occupied);
        Ok(slot)
    }

    /// Takes the function out of a slot: its BARs are no longer decoded, its configuration space reads as all ones,
    /// and it is told. An access that another vCPU has begun may still reach it. Returns whether there was one.
    pub fn remove(&self, slot: Slot) -> bool {
        let mut slots = lock(&self.slots);
        let Some(mut occupied) = slots.remove(&slot.number()) else {
            return false;
        };
        let mut function = lock(&occupied.function);
        for placed in &mut occupied.bars {
            self.take_away(placed, &mut *function);
        }
        function.removed();
        true
    }

    /// Reads configuration space of a function, given as device number and function number in one byte.
    /// What is not there, or not an aligned access of 1, 2 or 4 bytes, reads as all ones.
    pub(super) fn config_read(&self, function: u8, register: u16, data: &mut [u8]) {
        data.fill(0xff);
        if !is_access(register, data.len()) {
            return;
        }
        let slots = lock(&self.slots);
        let Some(occupied) = device(function).and_then(|device| slots.get(&device)) else {
            return;
        };
        if register >= HEADER {
            // An extended capability list that is empty.
            data.fill(0);
            return;
        }
        lock(&occupied.function).config_read(register, data);
    }

    /// Writes configuration space and moves BARs if that is what was written.
    pub(super) fn config_write(&self, function: u8, register: u16, data: &[u8]) {
        if !is_access(register, data.len()) || register >= HEADER {
            return;
        }
        let mut slots = lock(&self.slots);
        let Some(occupied) = device(function).and_then(|device| slots.get_mut(&device)) else {
            return;
        };
        lock(&occupied.function).config_write(register, data);
        self.settle(occupied);
    }

    /// What a snapshot keeps of all functions, in the order of their slots. No vCPU runs, and no event loop handles
    /// anything until the guest's memory has been saved too.
    ///
    /// # Errors
    /// [`StateError::NotSaveable`].
    pub fn save(&self) -> Result<Vec<FunctionState>, StateError> {
        let slots = lock(&self.slots);
        slots
            .iter()
            .map(|(slot, occupied)| {
                let state = lock(&occupied.function).save();
                state.ok_or(StateError::NotSaveable(usize::from(*slot)))
            })
            .collect()
    }

    /// Takes up what [`PciRoot::save`] gave, on a bus with the same new functions in the same order.
    ///
    /// # Errors
    /// [`StateError`]; the VM must then not run.
    pub fn restore(&self, saved: &[FunctionState]) -> Result<(), StateError> {
        let mut slots = lock(&self.slots);
        if slots.len() != saved.len() {
            return Err(StateError::Functions {
                saved: saved.len(),
                here: slots.len(),
            });
        }
        for (occupied, state) in slots.values_mut().zip(saved) {
            lock(&occupied.function).restore(state)?;
            self.settle(occupied);
        }
        Ok(())
    }

    /// Moves the BARs of a function to where its configuration space wants them.
    fn settle(&self, occupied: &mut Occupied) {
        let mut function = lock(&occupied.function);
        // First out, then in: two BARs of a function may change places.
        for placed in &mut occupied.bars {
            let wanted = function.configuration().decoded(placed.bar);
            if wanted != placed.wanted {
                self.take_away(placed, &mut *function);
            }
        }
        for placed in &mut occupied.bars {
            let wanted = function.configuration().decoded(placed.bar);
            if wanted != placed.wanted {
                placed.wanted = wanted;
                self.place(placed, &mut *function);
            }
        }
    }

    fn take_away(&self, placed: &mut PlacedBar, function: &mut dyn PciFunction) {
        if placed.decoded
            && let Some(address) = placed.wanted
        {
            self.bus(placed.side).remove(address);
            placed.decoded = false;
            function.bar_moved(placed.bar, None);
        }
    }

    fn place(&self, placed: &mut PlacedBar, function: &mut dyn PciFunction) {
        let Some(address) = placed.wanted else {
            return;
        };
        let fits = |window: &Range<u64>| {
            address >= window.start
                && address
                    .checked_add(placed.len)
                    .is_some_and(|end| end <= window.end)
        };
        let is_inside = match placed.side {
            Side::Memory => self.windows.iter().any(fits),
            Side::Ports => fits(&self.port_window),
        };
        if !is_inside {
            debug!(bar = ?placed.bar, address, "BAR outside the PCI windows is not decoded");
            return;
        }
        let access = Arc::clone(&placed.access);
        if let Err(error) = self.bus(placed.side).insert(address, placed.len, access) {
            debug!(bar = ?placed.bar, %error, "BAR over another device is not decoded");
            return;
        }
        placed.decoded = true;
        function.bar_moved(placed.bar, Some(address));
    }

    fn bus(&self, side: Side) -> &Bus {
        match side {
            Side::Memory => &self.memory_bus,
            Side::Ports => &self.port_bus,
        }
    }
}

/// The lowest free place for a BAR in a window, beside what is `taken`.
fn free(window: &Range<u64>, taken: &mut [Range<u64>], len: u64) -> Option<Range<u64>> {
    taken.sort_by_key(|range| range.start);
    let mut start = window.start.checked_next_multiple_of(len)?;
    for range in taken {
        if range.start < start.checked_add(len)? && range.end > start {
            start = range.end.checked_next_multiple_of(len)?;
        }
    }
    let end = start.checked_add(len)?;
    (end <= window.end).then_some(start..end)
}

/// Whether this is an access that configuration space has: 1, 2 or 4 bytes, aligned.
fn is_access(register: u16, len: usize) -> bool {
    matches!(len, 1 | 2 | 4) && usize::from(register).is_multiple_of(len)
}

/// The device whose function 0 is meant; other functions do not exist.
fn device(function: u8) -> Option<u8> {
    function.is_multiple_of(8).then_some(function >> 3)
}
