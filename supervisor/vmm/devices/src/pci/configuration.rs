//! Configuration space of one function: the type 0 header (PCI 3.0, section 6) as bytes with a mask of what the guest
//! may write. BARs are 64-bit memory only. Does not act on anything: the root compares and acts.

use crate::state::StateError;

/// Bytes of conventional configuration space; there are no extended capabilities.
const SPACE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const FIRST_BAR: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES_POINTER: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

const BAR_TYPE_64: u32 = 0b100;
const BAR_PREFETCHABLE: u32 = 0b1000;

/// What a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor number.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Class, subclass and programming interface, in the low 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor and device number.
    pub subsystem: (u16, u16),
}

/// A 64-bit BAR, named by its lower register: 0, 2 or 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BarIndex {
    /// BAR0 and BAR1.
    Bar0,
    /// BAR2 and BAR3.
    Bar2,
    /// BAR4 and BAR5.
    Bar4,
}

impl BarIndex {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bar0, Self::Bar2, Self::Bar4];

    /// Its number in capabilities and in the guest's `resourceN`.
    pub fn number(self) -> u8 {
        match self {
            Self::Bar0 => 0,
            Self::Bar2 => 2,
            Self::Bar4 => 4,
        }
    }

    fn register(self) -> usize {
        FIRST_BAR.saturating_add(usize::from(self.number()).saturating_mul(4))
    }
}

/// A function was described in a way that PCI does not have. A bug of the caller, not of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Not a power of two, or under 4 KiB: pages of different BARs would touch.
    #[error("a BAR of {0:#x} bytes is not a power of two of at least 4 KiB")]
    BarLength(u64),
    /// It has one already.
    #[error("BAR{0} exists already")]
    BarTaken(u8),
    /// Capabilities fill the 192 bytes there are, or a mask is longer than its capability.
    #[error("no room for capability {0:#x}")]
    NoRoom(u8),
}

/// Configuration space of one function.
#[derive(Clone, Debug)]
pub struct Configuration {
    bytes: [u8; SPACE],
    writable: [u8; SPACE],
    bar_lengths: [Option<u64>; BarIndex::ALL.len()],
    last_capability: Option<usize>,
    next_capability: usize,
}

impl Configuration {
    /// A function without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SPACE],
            writable: [0; SPACE],
            bar_lengths: [None; BarIndex::ALL.len()],
            last_capability: None,
            next_capability: FIRST_CAPABILITY,
        };
        let [class0, class1, class2, _] = identity.class.to_le_bytes();
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &[identity.revision, class0, class1, class2]);
        space.put(SUBSYSTEM, &identity.subsystem.0.to_le_bytes());
        space.put(
            SUBSYSTEM.saturating_add(2),
            &identity.subsystem.1.to_le_bytes(),
        );
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        // Cache line size and interrupt line: scratch bytes that firmware and kernels like to keep.
        space.allow(0x0c, &[0xff]);
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Adds a BAR of `len` bytes, at address zero until [`Configuration::place_bar`] or the guest says otherwise.
    ///
    /// # Errors
    /// [`ConfigurationError`] when the length is not one of a BAR or the BAR exists.
    pub fn add_bar(
        &mut self,
        bar: BarIndex,
        len: u64,
        prefetchable: bool,
    ) -> Result<(), ConfigurationError> {
        if !len.is_power_of_two() || len < 0x1000 {
            return Err(ConfigurationError::BarLength(len));
        }
        let slot = self.length_slot(bar);
        if slot.is_some() {
            return Err(ConfigurationError::BarTaken(bar.number()));
        }
        *slot = Some(len);
        let kind = BAR_TYPE_64 | if prefetchable { BAR_PREFETCHABLE } else { 0 };
        self.put(bar.register(), &kind.to_le_bytes());
        // Address bits below the length are hard-wired zeros: that is how a guest finds the size.
        self.allow(bar.register(), &(!len.saturating_sub(1)).to_le_bytes());
        Ok(())
    }

    /// Places a BAR at `address`, whose bits below the BAR's length are ignored. For the start of a VM.
    pub fn place_bar(&mut self, bar: BarIndex, address: u64) {
        self.write_masked(bar.register(), &address.to_le_bytes());
    }

    /// Switches memory decoding on, as firmware would. For the start of a VM.
    pub fn enable_memory(&mut self) {
        self.write_masked(COMMAND, &COMMAND_MEMORY.to_le_bytes());
    }

    /// Adds a capability: `body` is what follows the two bytes of number and link, `writable` masks its first bytes.
    /// Returns where in the space the capability (its number byte) is.
    ///
    /// # Errors
    /// [`ConfigurationError::NoRoom`].
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u8, ConfigurationError> {
        let full = ConfigurationError::NoRoom(id);
        let start = self.next_capability;
        let body_start = start.saturating_add(2);
        let end = body_start.saturating_add(body.len());
        let offset = u8::try_from(start).map_err(|_| full)?;
        if end > SPACE || writable.len() > body.len() {
            return Err(full);
        }
        self.put(start, &[id, 0]);
        self.put(body_start, body);
        self.allow(body_start, writable);
        match self.last_capability {
            Some(last) => self.put(last.saturating_add(1), &[offset]),
            None => {
                self.put(CAPABILITIES_POINTER, &[offset]);
                self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
            }
        }
        self.last_capability = Some(start);
        self.next_capability = end.next_multiple_of(4);
        Ok(offset)
    }

    /// All bytes, for a snapshot.
    pub fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Takes saved bytes as if the guest had written them: what it cannot write has to be as it is here.
    ///
    /// # Errors
    /// [`StateError::Unfit`]; the space may have changed in part.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        self.write_masked(0, saved);
        if saved == self.bytes {
            Ok(())
        } else {
            Err(StateError::Unfit("its PCI configuration space is another"))
        }
    }

    /// Reads bytes; past the end there are zeros.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (place, index) in data.iter_mut().zip(usize::from(offset)..) {
            *place = self.bytes.get(index).copied().unwrap_or(0);
        }
    }

    /// A guest's write: only writable bits change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        self.write_masked(usize::from(offset), data);
    }

    /// The 16-bit register at `offset`.
    pub fn word(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// The 32-bit register at `offset`.
    pub fn double_word(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The length of a BAR, if the function has it.
    pub fn bar_len(&self, bar: BarIndex) -> Option<u64> {
        let [bar0, bar2, bar4] = self.bar_lengths;
        match bar {
            BarIndex::Bar0 => bar0,
            BarIndex::Bar2 => bar2,
            BarIndex::Bar4 => bar4,
        }
    }

    /// Where a BAR would be decoded now; `None` while memory decoding is off or the function does not have it.
    pub fn decoded(&self, bar: BarIndex) -> Option<u64> {
        self.bar_len(bar)?;
        if self.word(0x04) & COMMAND_MEMORY == 0 {
            return None;
        }
        let mut bytes = [0; 8];
        for (place, index) in bytes.iter_mut().zip(bar.register()..) {
            *place = self.bytes.get(index).copied().unwrap_or(0);
        }
        Some(u64::from_le_bytes(bytes) & !0xf)
    }

    fn length_slot(&mut self, bar: BarIndex) -> &mut Option<u64> {
        let [bar0, bar2, bar4] = &mut self.bar_lengths;
        match bar {
            BarIndex::Bar0 => bar0,
            BarIndex::Bar2 => bar2,
            BarIndex::Bar4 => bar4,
        }
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(offset).zip(data) {
            *place = *byte;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (place, byte) in self.writable.iter_mut().skip(offset).zip(mask) {
            *place = *byte;
        }
    }

    fn write_masked(&mut self, offset: usize, data: &[u8]) {
        let places = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((place, mask), byte) in places.zip(data) {
            *place = (*place & !mask) | (byte & mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1234,
        device: 0x5678,
        class: 0x01_80_00,
        revision: 1,
        subsystem: (0x1af4, 0x40),
    };

    fn with_bar(bar: BarIndex, len: u64, prefetchable: bool) -> Configuration {
        let mut space = Configuration::new(IDENTITY);
        space.add_bar(bar, len, prefetchable).expect("a good BAR");
        space
    }

    #[test]
    fn the_header_says_what_the_function_is() {
        let space = Configuration::new(IDENTITY);
        for (offset, expected) in [
            (0x00, 0x5678_1234),
            (0x08, 0x0180_0001),
            (0x0c, 0),
            (0x10, 0),
            (0x2c, 0x0040_1af4),
            (0x34, 0),
            (0x100, 0),
            (0xffc, 0),
        ] {
            assert_eq!(space.double_word(offset), expected, "{offset:#x}");
        }
    }

    #[test]
    fn bars_tell_their_size_to_writes_of_ones() {
        for (bar, len, prefetchable, low, high) in [
            (BarIndex::Bar0, 0x1000, false, 0xffff_f004, 0xffff_ffff),
            (BarIndex::Bar0, 0x8000, false, 0xffff_8004, 0xffff_ffff),
            (BarIndex::Bar2, 1 << 20, true, 0xfff0_000c, 0xffff_ffff),
            (BarIndex::Bar4, 1 << 31, true, 0x8000_000c, 0xffff_ffff),
            (BarIndex::Bar2, 1 << 32, true, 0x0000_000c, 0xffff_ffff),
            (BarIndex::Bar2, 1 << 34, true, 0x0000_000c, 0xffff_fffc),
        ] {
            let mut space = with_bar(bar, len, prefetchable);
            let register = u16::try_from(bar.register()).expect("small");
            space.write(register, &[0xff; 4]);
            space.write(register + 4, &[0xff; 4]);
            assert_eq!(space.double_word(register), low, "{len:#x} low");
            assert_eq!(space.double_word(register + 4), high, "{len:#x} high");
        }
    }

    #[test]
    fn bars_are_decoded_when_memory_is_enabled() {
        let mut space = with_bar(BarIndex::Bar2, 0x10_0000, true);
        space.place_bar(BarIndex::Bar2, 0x40_1234_5678);
        assert_eq!(space.decoded(BarIndex::Bar2), None);
        space.write(0x04, &COMMAND_MEMORY.to_le_bytes());
        assert_eq!(space.decoded(BarIndex::Bar2), Some(0x40_1230_0000));
        assert_eq!(space.decoded(BarIndex::Bar0), None, "there is no BAR0");
        space.write(0x1c, &[0x41]);
        assert_eq!(space.decoded(BarIndex::Bar2), Some(0x41_1230_0000));
        space.write(0x04, &[0, 0]);
        assert_eq!(space.decoded(BarIndex::Bar2), None);
    }

    #[test]
    fn impossible_bars_and_capabilities_are_refused() {
        let mut space = with_bar(BarIndex::Bar0, 0x1000, false);
        for (bar, len, error) in [
            (BarIndex::Bar0, 0x1000, ConfigurationError::BarTaken(0)),
            (
                BarIndex::Bar2,
                0x1001,
                ConfigurationError::BarLength(0x1001),
            ),
            (BarIndex::Bar2, 0x800, ConfigurationError::BarLength(0x800)),
            (BarIndex::Bar2, 0, ConfigurationError::BarLength(0)),
        ] {
            assert_eq!(space.add_bar(bar, len, false), Err(error));
        }
        assert_eq!(space.add_capability(9, &[0; 100], &[]), Ok(0x40));
        assert_eq!(space.add_capability(9, &[0; 84], &[]), Ok(0xa8));
        assert_eq!(
            space.add_capability(9, &[0; 4], &[]),
            Err(ConfigurationError::NoRoom(9))
        );
        assert_eq!(space.word(0xa8), 0x0009, "the last one ends the list");
        assert_eq!(space.word(0x40), 0xa809, "the first one links to it");
    }

    #[test]
    fn a_guest_changes_only_writable_bits() {
        let mut space = with_bar(BarIndex::Bar0, 0x1000, false);
        let at = space
            .add_capability(0x11, &[0x03, 0x00, 0xaa, 0xbb], &[0x00, 0xc0])
            .expect("room");
        let before = space.clone();
        for offset in 0..0x140 {
            space.write(offset, &[0xff; 4]);
        }
        for (offset, or) in [
            (0x04, 0x0406),
            (0x0c, 0x00ff),
            (0x10, 0xf000),
            (0x3c, 0x00ff),
            (u16::from(at) + 2, 0xc000),
        ] {
            assert_eq!(space.word(offset), before.word(offset) | or, "{offset:#x}");
        }
        for offset in [
            0x00, 0x02, 0x06, 0x08, 0x0a, 0x0e, 0x18, 0x2c, 0x34, 0x40, 0x44, 0xfe,
        ] {
            assert_eq!(space.word(offset), before.word(offset), "{offset:#x}");
        }
    }
}
