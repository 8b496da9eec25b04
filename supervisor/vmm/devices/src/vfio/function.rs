//! An assigned device as a function of the guest's bus.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::hardware::{Hardware, Piece};
use super::layout::{Layout, MsixPlace, Unfit};
use crate::pci::{BarIndex, Configuration, Msix, PciFunction};
use crate::state::{FunctionState, StateError};
use crate::throttle::Throttle;

const COMMAND: u16 = 0x04;
const BUS_MASTER: u16 = 1 << 2;
const LINE_OFF: u16 = 1 << 10;

/// The guest's side of an assigned device.
pub struct VfioPci {
    configuration: Configuration,
    /// Without it, it has an interrupt line.
    msix: Option<Trapped>,
    pieces: Vec<Piece>,
    /// Pieces that are mapped now.
    mapped: Vec<Piece>,
    bus_master: bool,
    line: bool,
    /// `None` after it was unplugged.
    hardware: Option<Box<dyn Hardware>>,
    /// What ends with the device, on a thread that may do it.
    retire: Box<dyn Fn(Box<dyn Hardware>) + Send>,
    failures: Throttle,
}

/// The guest's MSI-X in place of the hardware's.
#[derive(Debug)]
struct Trapped {
    msix: Arc<Msix>,
    /// Its control register in configuration space.
    control: u16,
    place: MsixPlace,
}

impl Trapped {
    fn new(
        configuration: &mut Configuration,
        place: MsixPlace,
        msix: Arc<Msix>,
    ) -> Result<Self, Unfit> {
        let damaged = Unfit::Damaged("MSI-X is too far into its BAR");
        let table = u32::try_from(place.table.start).map_err(|_| damaged)?;
        let pending = u32::try_from(place.pending.start).map_err(|_| damaged)?;
        let control = msix.add_capability_at(
            configuration,
            (place.table_bar, table),
            (place.pending_bar, pending),
        )?;
        Ok(Self {
            msix,
            control,
            place,
        })
    }

    /// Which part of MSI-X an access to a BAR is of, with the offset in it; a part is never left by an access.
    fn part(&self, bar: BarIndex, offset: u64, len: usize) -> MsixPart {
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let part = |in_bar: BarIndex, range: &Range<u64>| {
            let touches = in_bar == bar && offset < range.end && end > range.start;
            let within = offset.checked_sub(range.start).filter(|_| end <= range.end);
            touches.then_some(within)
        };
        if let Some(within) = part(self.place.table_bar, &self.place.table) {
            return within.map_or(MsixPart::Astride, MsixPart::Table);
        }
        if let Some(within) = part(self.place.pending_bar, &self.place.pending) {
            return within.map_or(MsixPart::Astride, MsixPart::Pending);
        }
        MsixPart::Outside
    }
}

impl fmt::Debug for VfioPci {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("VfioPci")
            .field("msix", &self.msix)
            .field("pieces", &self.pieces)
            .finish_non_exhaustive()
    }
}

impl VfioPci {
    /// A function with the guest's view `layout` of `hardware`, whose vectors are those of `msix`: there is one when the
    /// layout has a place for it. When the guest gives it up, `retire` gets the hardware to drop.
    ///
    /// # Errors
    /// [`Unfit`] when configuration space has no room for MSI-X.
    pub fn new(
        layout: Layout,
        msix: Option<Arc<Msix>>,
        hardware: Box<dyn Hardware>,
        retire: Box<dyn Fn(Box<dyn Hardware>) + Send>,
    ) -> Result<Self, Unfit> {
        let Layout {
            mut configuration,
            msix: place,
            pieces,
        } = layout;
        let msix = place
            .zip(msix)
            .map(|(place, msix)| Trapped::new(&mut configuration, place, msix))
            .transpose()?;
        Ok(Self {
            configuration,
            msix,
            pieces,
            mapped: Vec::new(),
            bus_master: false,
            line: true,
            hardware: Some(hardware),
            retire,
            failures: Throttle::default(),
        })
    }

    fn failed(&mut self, what: &str, error: &std::io::Error) {
        if self.failures.allows(Instant::now()) {
            warn!(what, %error, "assigned device");
        }
    }

    /// Passes bus mastering on, and the use of the interrupt line where there is one; nothing else of the command register.
    fn follow_command(&mut self) {
        let command = self.configuration.word(COMMAND);
        let Some(hardware) = &mut self.hardware else {
            return;
        };
        let mut refused = None;
        let line = command & LINE_OFF == 0;
        if self.msix.is_none() && line != self.line {
            match hardware.set_line(line) {
                Ok(()) => self.line = line,
                Err(error) => refused = Some(("interrupt line", error)),
            }
        }
        let bus_master = command & BUS_MASTER != 0;
        if bus_master != self.bus_master {
            match hardware.set_bus_master(bus_master) {
                Ok(()) => self.bus_master = bus_master,
                Err(error) => refused = Some(("bus mastering", error)),
            }
        }
        if let Some((what, error)) = refused {
            self.failed(what, &error);
        }
    }
}

/// Where an access goes.
enum MsixPart {
    Table(u64),
    Pending(u64),
    /// In part to the one, in part to something else: to nothing.
    Astride,
    Outside,
}

impl PciFunction for VfioPci {
    fn configuration(&mut self) -> &mut Configuration {
        &mut self.configuration
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.configuration.write(offset, data);
        self.follow_command();
        if let Some(Trapped { msix, control, .. }) = &self.msix
            && (control & !3..control.saturating_add(2)).contains(&offset)
        {
            msix.set_control(self.configuration.word(*control));
        }
    }

    fn bar_read(&mut self, bar: BarIndex, offset: u64, data: &mut [u8]) {
        if let Some(trapped) = &self.msix {
            match trapped.part(bar, offset, data.len()) {
                MsixPart::Table(within) => return trapped.msix.read_table(within, data),
                MsixPart::Pending(within) => return trapped.msix.read_pending(within, data),
                MsixPart::Astride => return,
                MsixPart::Outside => {}
            }
        }
        if let Some(hardware) = &mut self.hardware
            && let Err(error) = hardware.read(bar, offset, data)
        {
            // Never half of something.
            data.fill(0xff);
            self.failed("read", &error);
        }
    }

    fn bar_write(&mut self, bar: BarIndex, offset: u64, data: &[u8]) {
        if let Some(trapped) = &self.msix {
            match trapped.part(bar, offset, data.len()) {
                MsixPart::Table(within) => return trapped.msix.write_table(within, data),
                MsixPart::Pending(_) | MsixPart::Astride => return,
                MsixPart::Outside => {}
            }
        }
        if let Some(hardware) = &mut self.hardware
            && let Err(error) = hardware.write(bar, offset, data)
        {
            self.failed("write", &error);
        }
    }

    fn bar_moved(&mut self, bar: BarIndex, address: Option<u64>) {
        let Some(hardware) = &mut self.hardware else {
            return;
        };
        let (gone, stay): (Vec<_>, Vec<_>) =
            self.mapped.drain(..).partition(|piece| piece.bar == bar);
        self.mapped = stay;
        for piece in &gone {
            hardware.unmap(piece);
        }
        let mut refused = None;
        if let Some(base) = address {
            for piece in self.pieces.iter().filter(|piece| piece.bar == bar) {
                match hardware.map(piece, base.saturating_add(piece.range.start)) {
                    Ok(()) => self.mapped.push(piece.clone()),
                    Err(error) => refused = Some(error),
                }
            }
        }
        if let Some(error) = refused {
            self.failed("registers take the slow way", &error);
        }
    }

    fn save(&mut self) -> Option<FunctionState> {
        None
    }

    fn restore(&mut self, _saved: &FunctionState) -> Result<(), StateError> {
        Err(StateError::Unfit("it is a device of the host"))
    }

    fn removed(&mut self) {
        if let Some(mut hardware) = self.hardware.take() {
            // First of all, and again by the kernel when the descriptor is closed.
            let _ = hardware.set_bus_master(false);
            (self.retire)(hardware);
        }
    }
}
