//! Configuration space of one function: the type 0 header (PCI 3.0, section 6) as bytes with a mask of what the guest
//! may write. BARs of memory are of 64 bits but for assigned devices; one of ports is where a doorbell costs least. Does
//! not act on anything: the root compares and acts.

use super::bar::{Bar, BarIndex, BarKind, COMMAND_MEMORY, COMMAND_PORTS};
use crate::state::StateError;

/// Bytes of conventional configuration space; there are no extended capabilities.
const SPACE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES_POINTER: usize = 0x34;
const INTERRUPT_PIN: usize = 0x3d;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// What a guest may write of the command register of a function without ports.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;

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

/// A function was described in a way that PCI does not have. A bug of the caller, not of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Not a power of two, under 4 KiB of memory or too large for its address, or not 4 to 256 ports.
    #[error(
        "a BAR of {0:#x} is not a power of two of at least 4 KiB that its address can hold, nor of 4 to 256 ports"
    )]
    BarLength(u64),
    /// A register that it needs is taken, or there is none.
    #[error("BAR{0}, or the upper half of its address, has no register")]
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
    bars: [Option<Bar>; BarIndex::ALL.len()],
    last_capability: Option<usize>,
    next_capability: usize,
}

impl Configuration {
    /// A function without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SPACE],
            writable: [0; SPACE],
            bars: [None; BarIndex::ALL.len()],
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
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // Cache line size and interrupt line: scratch bytes that firmware and kernels like to keep.
        space.allow(0x0c, &[0xff]);
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Adds a 64-bit BAR of `len` bytes, at address zero until [`Configuration::place_bar`] or the guest says otherwise.
    ///
    /// # Errors
    /// [`ConfigurationError`] when the length is not one of a BAR or its registers are taken.
    pub fn add_bar(
        &mut self,
        bar: BarIndex,
        len: u64,
        prefetchable: bool,
    ) -> Result<(), ConfigurationError> {
        self.add_bar_of(bar, len, BarKind::Memory64, prefetchable)
    }

    /// Adds a BAR of `len` ports, which is a power of two from 4 to 256.
    ///
    /// # Errors
    /// Like [`Configuration::add_bar`].
    pub fn add_ports(&mut self, bar: BarIndex, len: u64) -> Result<(), ConfigurationError> {
        self.add_bar_of(bar, len, BarKind::Ports, false)?;
        let command = COMMAND_WRITABLE | COMMAND_PORTS;
        self.allow(COMMAND, &command.to_le_bytes());
        Ok(())
    }

    /// Adds a BAR of memory of either width.
    ///
    /// # Errors
    /// Like [`Configuration::add_bar`].
    pub fn add_bar_of(
        &mut self,
        bar: BarIndex,
        len: u64,
        kind: BarKind,
        prefetchable: bool,
    ) -> Result<(), ConfigurationError> {
        if !kind.holds(len) {
            return Err(ConfigurationError::BarLength(len));
        }
        let taken = ConfigurationError::BarTaken(bar.number());
        let upper_free = match kind {
            BarKind::Memory32 | BarKind::Ports => true,
            BarKind::Memory64 => bar.next().is_some_and(|next| self.bar(next).is_none()),
        };
        if !upper_free || self.is_taken(bar) {
            return Err(taken);
        }
        if let Some(slot) = self.bars.get_mut(usize::from(bar.number())) {
            *slot = Some(Bar { len, kind });
        }
        let flags = kind.flags() | if prefetchable { BAR_PREFETCHABLE } else { 0 };
        self.put(bar.register(), &flags.to_le_bytes());
        // Address bits below the length are hard-wired zeros: that is how a guest finds the size.
        let mask = (!len.saturating_sub(1)).to_le_bytes();
        self.allow(bar.register(), kind.registers(&mask));
        Ok(())
    }

    /// Places a BAR at `address`, whose bits below the BAR's length are ignored. For the start of a VM.
    pub fn place_bar(&mut self, bar: BarIndex, address: u64) {
        if let Some(Bar { kind, .. }) = self.bar(bar) {
            self.write_masked(bar.register(), kind.registers(&address.to_le_bytes()));
        }
    }

    /// Says that the function has an interrupt line, its first: INTA.
    pub fn add_interrupt_pin(&mut self) {
        self.put(INTERRUPT_PIN, &[1]);
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
        self.bar(bar).map(|bar| bar.len)
    }

    /// What a BAR decodes, if the function has it.
    pub fn bar_kind(&self, bar: BarIndex) -> Option<BarKind> {
        self.bar(bar).map(|bar| bar.kind)
    }

    /// Where a BAR would be decoded now, in memory or as a port; `None` while decoding of its kind is off or the function
    /// does not have it.
    pub fn decoded(&self, bar: BarIndex) -> Option<u64> {
        let kind = self.bar_kind(bar)?;
        if self.word(0x04) & kind.command() == 0 {
            return None;
        }
        let mut bytes = [0; 8];
        let places = bytes.iter_mut().zip(bar.register()..);
        let (count, flags) = match kind {
            BarKind::Memory32 => (4, 0xf),
            BarKind::Memory64 => (8, 0xf),
            BarKind::Ports => (4, 0x3),
        };
        for (place, index) in places.take(count) {
            *place = self.bytes.get(index).copied().unwrap_or(0);
        }
        Some(u64::from_le_bytes(bytes) & !flags)
    }

    fn bar(&self, bar: BarIndex) -> Option<Bar> {
        self.bars.get(usize::from(bar.number())).copied().flatten()
    }

    /// Whether its register belongs to a BAR already, as itself or as an upper half.
    fn is_taken(&self, bar: BarIndex) -> bool {
        let below = BarIndex::ALL
            .into_iter()
            .find(|below| below.next() == Some(bar));
        let upper = below.and_then(|below| self.bar_kind(below)) == Some(BarKind::Memory64);
        upper || self.bar(bar).is_some()
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
    fn bars_of_32_bits_have_one_register() {
        let mut space = Configuration::new(IDENTITY);
        let bits32 = BarKind::Memory32;
        for (bar, len) in [(BarIndex::Bar0, 0x2_0000), (BarIndex::Bar1, 0x1000)] {
            let added = space.add_bar_of(bar, len, bits32, false);
            assert_eq!(added, Ok(()), "{bar:?}");
        }
        space.add_bar(BarIndex::Bar2, 0x4000, true).expect("free");
        space
            .add_bar_of(BarIndex::Bar5, 1 << 31, bits32, true)
            .expect("free");
        for (bar, kind) in [
            (BarIndex::Bar0, BarKind::Memory32),
            (BarIndex::Bar1, BarKind::Memory64),
            (BarIndex::Bar3, BarKind::Memory32),
            (BarIndex::Bar4, BarKind::Memory64),
            (BarIndex::Bar5, BarKind::Memory64),
        ] {
            let taken = ConfigurationError::BarTaken(bar.number());
            assert_eq!(space.add_bar_of(bar, 0x1000, kind, false), Err(taken));
        }
        let large = space.add_bar_of(BarIndex::Bar4, 1 << 32, bits32, false);
        assert_eq!(large, Err(ConfigurationError::BarLength(1 << 32)));
        for offset in (0x10..0x28).step_by(4) {
            space.write(offset, &[0xff; 4]);
        }
        let found: Vec<_> = (0x10..0x28)
            .step_by(4)
            .map(|at| space.double_word(at))
            .collect();
        let expected = [
            0xfffe_0000,
            0xffff_f000,
            0xffff_c00c,
            0xffff_ffff,
            0,
            0x8000_0008,
        ];
        assert_eq!(found, expected);
        space.place_bar(BarIndex::Bar1, 0xfebc_1000);
        space.enable_memory();
        assert_eq!(space.decoded(BarIndex::Bar1), Some(0xfebc_1000));
        assert_eq!(
            space.decoded(BarIndex::Bar0),
            Some(0xfffe_0000),
            "not the next register"
        );
        assert_eq!(space.decoded(BarIndex::Bar3), None);
    }

    #[test]
    fn bars_of_ports_tell_their_size_and_are_switched_on_by_themselves() {
        for (len, ones) in [(4, 0xffff_fffd), (64, 0xffff_ffc1), (256, 0xffff_ff01)] {
            let mut space = with_bar(BarIndex::Bar0, 0x1000, false);
            space.add_ports(BarIndex::Bar2, len).expect("free");
            space.write(0x18, &[0xff; 4]);
            assert_eq!(space.double_word(0x18), ones, "{len}");
            assert_eq!(space.double_word(0x1c), 0, "only one register");
        }
        let mut space = with_bar(BarIndex::Bar0, 0x1000, false);
        for len in [0, 1, 2, 5, 63, 512, 0x1000] {
            let refused = Err(ConfigurationError::BarLength(len));
            assert_eq!(space.add_ports(BarIndex::Bar2, len), refused);
        }
        space.write(0x04, &[0xff; 2]);
        assert_eq!(space.word(0x04), 0x0406, "there are no ports to decode");
        space.write(0x04, &[0; 2]);
        let taken = Err(ConfigurationError::BarTaken(1));
        assert_eq!(space.add_ports(BarIndex::Bar1, 64), taken);
        space.add_ports(BarIndex::Bar2, 64).expect("free");
        space.place_bar(BarIndex::Bar2, 0xc055);
        assert_eq!(space.double_word(0x18), 0xc041);
        for (command, memory, ports) in [
            (0_u16, None, None),
            (1, None, Some(0xc040)),
            (2, Some(0), None),
            (3, Some(0), Some(0xc040)),
        ] {
            space.write(0x04, &command.to_le_bytes());
            assert_eq!(space.decoded(BarIndex::Bar0), memory, "{command}");
            assert_eq!(space.decoded(BarIndex::Bar2), ports, "{command}");
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
