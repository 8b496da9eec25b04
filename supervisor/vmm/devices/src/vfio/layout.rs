//! What the guest sees of a device: its configuration space, made from the hardware's.

use std::ops::Range;

use super::hardware::{DeviceInfo, Piece};
use super::pieces::pieces;
use crate::pci::{BarIndex, BarKind, Configuration, ConfigurationError, Identity, MAX_VECTORS};

const MSIX: u8 = 0x11;
const EXPRESS: u8 = 0x10;
/// Which line it has: 1 to 4 are INTA to INTD.
const INTERRUPT_PIN: u16 = 0x3d;
/// Bytes of a PCI Express capability of version 2, number and link included.
const EXPRESS_LEN: usize = 0x3c;
/// More capabilities than fit: a list that is longer goes in circles.
const MAX_CAPABILITIES: usize = 48;
/// Bytes of an MSI-X table entry.
const ENTRY: u64 = 16;

/// Why a device is not given to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// What one guest left in it, the next would find.
    #[error(
        "the kernel cannot reset it, so what one VM leaves in it the next one would find: assign it behind a port of its own, or another device"
    )]
    NoReset,
    /// Not a plain function.
    #[error("it is a bridge or CardBus function, which cannot be assigned")]
    Bridge,
    /// The guest could only ask it again and again.
    #[error("it has neither MSI-X nor an interrupt line that the kernel can deliver")]
    NoInterrupt,
    /// More vectors than we have.
    #[error("it wants {0} MSI-X vectors, {max} are possible", max = MAX_VECTORS)]
    Vectors(u16),
    /// Its own headers contradict each other or the kernel.
    #[error("its configuration space is damaged: {0}")]
    Damaged(&'static str),
    /// We cannot describe it.
    #[error("its configuration space cannot be shown to a guest")]
    Configuration(#[from] ConfigurationError),
}

/// Where the MSI-X table and its pending bits are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsixPlace {
    /// Number of vectors.
    pub vectors: u16,
    /// BAR of the table.
    pub table_bar: BarIndex,
    /// Bytes of that BAR.
    pub table: Range<u64>,
    /// BAR of the pending bits.
    pub pending_bar: BarIndex,
    /// Bytes of that BAR.
    pub pending: Range<u64>,
}

/// What the guest gets.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Without MSI-X, whose capability is added by who has its state.
    pub configuration: Configuration,
    /// Its interrupts; without it, it has its interrupt line.
    pub msix: Option<MsixPlace>,
    /// What is mapped.
    pub pieces: Vec<Piece>,
}

/// Makes the guest's view of a device.
///
/// # Errors
/// [`Unfit`] when it must not or cannot be given to a guest.
pub fn plan(device: &DeviceInfo) -> Result<Layout, Unfit> {
    let config = Bytes(&device.config);
    if !device.resets {
        return Err(Unfit::NoReset);
    }
    // Bit 7 says that there are more functions, of which we have none.
    if config.byte(0x0e) & 0x7f != 0 {
        return Err(Unfit::Bridge);
    }
    let mut configuration = Configuration::new(Identity {
        vendor: config.word(0x00),
        device: config.word(0x02),
        class: config.double_word(0x08) >> 8,
        revision: config.byte(0x08),
        subsystem: (config.word(0x2c), config.word(0x2e)),
    });
    let bars = memory_bars(&config, device)?;
    for (bar, kind) in &bars {
        // The guest's BARs are at least a page, or pages of two devices would touch.
        let len = kind.len.max(0x1000);
        configuration.add_bar_of(*bar, len, kind.width, kind.prefetchable)?;
    }
    let len_of = |number: u8| {
        let (bar, kind) = bars.iter().find(|(bar, _)| bar.number() == number)?;
        Some((*bar, kind.len))
    };
    let capabilities = config.capabilities()?;
    let at = |number: u8| {
        let found = capabilities.iter().find(|(id, _)| *id == number);
        found.map(|(_, offset)| *offset)
    };
    let msix = match at(MSIX) {
        Some(offset) => Some(msix(&config, offset, len_of)?),
        None if device.line && (1..=4).contains(&config.byte(INTERRUPT_PIN)) => {
            configuration.add_interrupt_pin();
            None
        }
        None => return Err(Unfit::NoInterrupt),
    };
    if let Some(vectors) = msix.as_ref().map(|msix| msix.vectors)
        && (vectors > MAX_VECTORS || vectors > device.vectors)
    {
        return Err(Unfit::Vectors(vectors));
    }
    if let Some(offset) = at(EXPRESS) {
        configuration.add_capability(EXPRESS, &config.express(offset), &[])?;
    }
    let pieces = device
        .bars
        .iter()
        .filter(|info| bars.iter().any(|(bar, _)| *bar == info.bar))
        .flat_map(|info| {
            let mut trapped = Vec::new();
            if let Some(msix) = &msix {
                for (bar, range) in [
                    (msix.table_bar, &msix.table),
                    (msix.pending_bar, &msix.pending),
                ] {
                    if bar == info.bar {
                        trapped.push(range.clone());
                    }
                }
            }
            let bar = info.bar;
            pieces(info.len, &info.mappable, &trapped)
                .into_iter()
                .map(move |range| Piece { bar, range })
        })
        .collect();
    Ok(Layout {
        configuration,
        msix,
        pieces,
    })
}

/// A memory BAR as its register describes it.
struct Kind {
    len: u64,
    width: BarKind,
    prefetchable: bool,
}

/// The BARs that the guest gets: memory only, of the length that the kernel says.
fn memory_bars(config: &Bytes<'_>, device: &DeviceInfo) -> Result<Vec<(BarIndex, Kind)>, Unfit> {
    let mut bars = Vec::new();
    for info in &device.bars {
        let register = u16::from(info.bar.number())
            .saturating_mul(4)
            .saturating_add(0x10);
        let [low, ..] = config.double_word(register).to_le_bytes();
        if low & 1 != 0 {
            continue; // I/O ports.
        }
        let width = match (low >> 1) & 0b11 {
            0b00 => BarKind::Memory32,
            0b10 => BarKind::Memory64,
            _ => return Err(Unfit::Damaged("a BAR is of no known kind")),
        };
        let prefetchable = low & 0b1000 != 0;
        let len = info.len;
        bars.push((
            info.bar,
            Kind {
                len,
                width,
                prefetchable,
            },
        ));
    }
    Ok(bars)
}

fn msix(
    config: &Bytes<'_>,
    offset: u16,
    len_of: impl Fn(u8) -> Option<(BarIndex, u64)>,
) -> Result<MsixPlace, Unfit> {
    let register = |at: u16| config.double_word(offset.saturating_add(at));
    let [_, _, low, high] = register(0).to_le_bytes();
    let vectors = (u16::from_le_bytes([low, high]) & 0x7ff).saturating_add(1);
    let place = |register: u32, len: u64| {
        let [bar, ..] = (register & 0b111).to_le_bytes();
        let start = u64::from(register & !0b111);
        let range = start..start.saturating_add(len);
        let (bar, bar_len) = len_of(bar)?;
        (range.end <= bar_len).then_some((bar, range))
    };
    let damaged = Unfit::Damaged("MSI-X is outside of its BAR");
    let count = u64::from(vectors);
    let (table_bar, table) = place(register(4), count.saturating_mul(ENTRY)).ok_or(damaged)?;
    let pending_len = count.div_ceil(64).saturating_mul(8);
    let (pending_bar, pending) = place(register(8), pending_len).ok_or(damaged)?;
    if table_bar == pending_bar && table.start < pending.end && pending.start < table.end {
        return Err(Unfit::Damaged("MSI-X table and pending bits overlap"));
    }
    Ok(MsixPlace {
        vectors,
        table_bar,
        table,
        pending_bar,
        pending,
    })
}

/// Recorded configuration space.
struct Bytes<'a>(&'a [u8; 256]);

impl Bytes<'_> {
    fn byte(&self, offset: u16) -> u8 {
        self.0.get(usize::from(offset)).copied().unwrap_or(0)
    }

    fn word(&self, offset: u16) -> u16 {
        u16::from_le_bytes([self.byte(offset), self.byte(offset.saturating_add(1))])
    }

    fn double_word(&self, offset: u16) -> u32 {
        let (low, high) = (self.word(offset), self.word(offset.saturating_add(2)));
        u32::from(low) | u32::from(high) << 16
    }

    /// Number and offset of each capability.
    fn capabilities(&self) -> Result<Vec<(u8, u16)>, Unfit> {
        const STATUS_CAPABILITIES: u16 = 1 << 4;
        let mut found = Vec::new();
        if self.word(0x06) & STATUS_CAPABILITIES == 0 {
            return Ok(found);
        }
        let mut next = self.byte(0x34) & !0b11;
        while next != 0 {
            if next < 0x40 || found.len() >= MAX_CAPABILITIES {
                return Err(Unfit::Damaged("its list of capabilities does not end"));
            }
            let offset = u16::from(next);
            found.push((self.byte(offset), offset));
            next = self.byte(offset.saturating_add(1)) & !0b11;
        }
        Ok(found)
    }

    /// The body of the PCI Express capability, as of an endpoint that is part of the root: it has no link.
    fn express(&self, offset: u16) -> Vec<u8> {
        const INTEGRATED_ENDPOINT: u8 = 0x9 << 4;
        let end = usize::from(offset).saturating_add(EXPRESS_LEN).min(256);
        let body = self.0.get(usize::from(offset).saturating_add(2)..end);
        let mut body = body.unwrap_or_default().to_vec();
        if let Some(flags) = body.first_mut() {
            *flags = (*flags & 0x0f) | INTEGRATED_ENDPOINT;
        }
        if let Some(status) = body.get_mut(8..10) {
            status.fill(0); // Errors of the past.
        }
        body
    }
}
