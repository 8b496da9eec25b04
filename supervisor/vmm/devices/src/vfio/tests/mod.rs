//! Recorded devices, hardware that writes down what is asked of it, and a bus around both.

mod guest;
mod layout;
mod recorded;

use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::bus::Bus;
use crate::fake::FakeRouter;
use crate::lock;
use crate::pci::{BarIndex, ConfigPorts, Msix, PciRoot};

/// What was asked of the hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    BusMaster(bool),
    Line(bool),
    Read(u8, u64, usize),
    Write(u8, u64, Vec<u8>),
    Map(u8, u64, u64, u64),
    Unmap(u8, u64),
    Dropped,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// Reads as 0x11, refuses what `broken` says.
struct FakeHardware {
    log: Log,
    broken: Arc<Mutex<bool>>,
}

impl FakeHardware {
    fn ask(&self, asked: Asked) -> io::Result<()> {
        lock(&self.log).push(asked);
        if *lock(&self.broken) {
            return Err(io::Error::other("broken"));
        }
        Ok(())
    }
}

impl Drop for FakeHardware {
    fn drop(&mut self) {
        lock(&self.log).push(Asked::Dropped);
    }
}

impl Hardware for FakeHardware {
    fn set_bus_master(&mut self, on: bool) -> io::Result<()> {
        self.ask(Asked::BusMaster(on))
    }
    fn set_line(&mut self, on: bool) -> io::Result<()> {
        self.ask(Asked::Line(on))
    }
    fn read(&mut self, bar: BarIndex, offset: u64, data: &mut [u8]) -> io::Result<()> {
        data.fill(0x11);
        self.ask(Asked::Read(bar.number(), offset, data.len()))
    }
    fn write(&mut self, bar: BarIndex, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ask(Asked::Write(bar.number(), offset, data.to_vec()))
    }
    fn map(&mut self, piece: &Piece, address: u64) -> io::Result<()> {
        let Piece { bar, range } = piece;
        self.ask(Asked::Map(bar.number(), range.start, range.end, address))
    }
    fn unmap(&mut self, piece: &Piece) {
        let _ = self.ask(Asked::Unmap(piece.bar.number(), piece.range.start));
    }
}

/// A guest's bus with one device in slot 1.
struct Fixture {
    memory: Arc<Bus>,
    ports: Bus,
    root: Arc<PciRoot>,
    msix: Arc<Msix>,
    router: Arc<FakeRouter>,
    log: Log,
    broken: Arc<Mutex<bool>>,
    retired: Arc<Mutex<Vec<Box<dyn Hardware>>>>,
}

impl Fixture {
    fn new(device: &DeviceInfo) -> Self {
        let memory = Arc::new(Bus::new());
        let windows = vec![0xc000_0000..0xe000_0000, 0x40_0000_0000..0x80_0000_0000];
        let root = Arc::new(PciRoot::new(Arc::clone(&memory), windows));
        let layout = plan(device).expect("it fits");
        let router = FakeRouter::new();
        // A device without any has a table that nothing is connected to.
        let vectors = layout.msix.as_ref().map(|place| place.vectors);
        let msix = Msix::new(router.clone(), vectors.unwrap_or(1)).expect("routes");
        let msix = Arc::new(msix);
        let (log, broken) = (Log::default(), Arc::default());
        let hardware = FakeHardware {
            log: Arc::clone(&log),
            broken: Arc::clone(&broken),
        };
        let retired = Arc::new(Mutex::new(Vec::new()));
        let grave = Arc::clone(&retired);
        let function = VfioPci::new(
            layout,
            vectors.map(|_| Arc::clone(&msix)),
            Box::new(hardware),
            Box::new(move |hardware| lock(&grave).push(hardware)),
        )
        .expect("room");
        root.add(Arc::new(Mutex::new(function))).expect("room");
        let ports = Bus::new();
        let config = Arc::new(Mutex::new(ConfigPorts::new(Arc::clone(&root))));
        let added = ports.insert(ConfigPorts::BASE, ConfigPorts::LEN, config);
        added.expect("free");
        Self {
            memory,
            ports,
            root,
            msix,
            router,
            log,
            broken,
            retired,
        }
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *lock(&self.log))
    }

    fn select(&self, register: u8) {
        let address = 1 << 31 | 1 << 11 | u32::from(register & !3);
        self.ports.write(0xcf8, &u32::to_le_bytes(address));
    }

    fn config(&self, register: u8) -> u32 {
        self.select(register);
        let mut data = [0; 4];
        self.ports.read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    fn set_config(&self, register: u8, data: &[u8]) {
        self.select(register);
        self.ports.write(0xcfc + u64::from(register & 3), data);
    }

    /// Places a BAR of 64 bits.
    fn place(&self, register: u8, address: u64) {
        let bytes = address.to_le_bytes();
        self.set_config(register, &bytes[..4]);
        self.set_config(register + 4, &bytes[4..]);
    }

    /// The capability's offset.
    fn capability(&self, number: u8) -> Option<u8> {
        let mut at = self.config(0x34).to_le_bytes()[0];
        while at != 0 {
            let [id, next, ..] = self.config(at).to_le_bytes();
            if id == number {
                return Some(at);
            }
            at = next;
        }
        None
    }
}
