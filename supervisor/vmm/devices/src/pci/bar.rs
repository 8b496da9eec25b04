//! BARs: which there are, and what each kind of them can decode.

const FIRST_BAR: usize = 0x10;

/// Bits of the command register that switch BARs on.
pub(super) const COMMAND_PORTS: u16 = 1;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;

const BAR_PORTS: u32 = 1;
const BAR_TYPE_64: u32 = 0b100;

/// A BAR, named by its register; a 64-bit one has the register after it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BarIndex {
    /// BAR0.
    Bar0,
    /// BAR1.
    Bar1,
    /// BAR2.
    Bar2,
    /// BAR3.
    Bar3,
    /// BAR4.
    Bar4,
    /// BAR5.
    Bar5,
}

impl BarIndex {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Bar0,
        Self::Bar1,
        Self::Bar2,
        Self::Bar3,
        Self::Bar4,
        Self::Bar5,
    ];

    /// Its number in capabilities and in the guest's `resourceN`.
    pub fn number(self) -> u8 {
        match self {
            Self::Bar0 => 0,
            Self::Bar1 => 1,
            Self::Bar2 => 2,
            Self::Bar3 => 3,
            Self::Bar4 => 4,
            Self::Bar5 => 5,
        }
    }

    /// The next one.
    pub(super) fn next(self) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|bar| bar.number() > self.number())
    }

    pub(super) fn register(self) -> usize {
        FIRST_BAR.saturating_add(usize::from(self.number()).saturating_mul(4))
    }
}

/// What a BAR decodes, and how many bits of address it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory; one register, so it has to lie below 4 GiB.
    Memory32,
    /// Memory; two registers.
    Memory64,
    /// Ports; one register.
    Ports,
}

impl BarKind {
    /// The bytes of an address that have registers.
    pub(super) fn registers(self, address: &[u8; 8]) -> &[u8] {
        match self {
            Self::Memory32 | Self::Ports => address.get(..4).unwrap_or_default(),
            Self::Memory64 => address,
        }
    }

    /// Bits of the lower register that say what it is.
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Memory32 => 0,
            Self::Memory64 => BAR_TYPE_64,
            Self::Ports => BAR_PORTS,
        }
    }

    /// The bit of the command register that switches it on.
    pub(super) fn command(self) -> u16 {
        match self {
            Self::Memory32 | Self::Memory64 => COMMAND_MEMORY,
            Self::Ports => COMMAND_PORTS,
        }
    }

    /// Whether a BAR can be this long: pages of two BARs of memory must not touch, and one of 32 bits that is larger than
    /// half of what they address could lie nowhere else than at zero. PCI allows 256 ports (PCI 3.0, 6.2.5.1).
    pub(super) fn holds(self, len: u64) -> bool {
        let possible = match self {
            Self::Memory32 => 0x1000..=1 << 31,
            Self::Memory64 => 0x1000..=1 << 63,
            Self::Ports => 4..=256,
        };
        len.is_power_of_two() && possible.contains(&len)
    }
}

/// A BAR that a function has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) len: u64,
    pub(super) kind: BarKind,
}
