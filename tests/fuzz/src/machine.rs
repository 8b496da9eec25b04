//! PCI bus 0 with one of each device, and a guest that reads and writes where it likes.
//!
//! An input is a list of steps of 12 bytes: what, function, a place of two bytes, a value of eight. The low three
//! bits of what say where ([`Space`]), bit 3 that it is a write, bits 4 and 5 the width.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use casemate_devices::blk::{Access, Block, RawDisk, Serial as DiskSerial};
use casemate_devices::bus::{Bus, BusDevice as _};
use casemate_devices::console::Console;
use casemate_devices::event_loop::EventLoop;
use casemate_devices::pci::{ConfigPorts, Ecam, PciFunction, PciRoot};
use casemate_devices::rng::{MonotonicClock, Rng};
use casemate_devices::serial::Serial;
use casemate_devices::state::FunctionState;
use casemate_devices::virtio::{HostServices, Memory, VirtioDevice, VirtioPci};
use casemate_devices::vsock::{GuestCid, Vsock};
use casemate_devices::window_memory::WindowMemory;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::doubles::{Mapper, Notify, Router, Silence};
use crate::driver::MEMORY;
use crate::input::Input;

/// Where BARs may be; the second window is where they are at first.
pub const WINDOWS: [Range<u64>; 2] = [0xc000_0000..0xd000_0000, WINDOW..0x80_0000_0000];
/// Start of the second window.
pub const WINDOW: u64 = 0x40_0000_0000;
/// Where BARs of ports may be; at first they follow each other.
pub const PORTS: Range<u64> = 0xc000..0x1_0000;
/// Ports of a virtio function's BAR.
const DOORBELLS: u64 = 64;
/// Bytes of a virtio function's BAR; at first they follow each other.
pub const BAR: u64 = 0x8000;

const WINDOW_MEMORY: u64 = 1 << 20;
const DISK: u64 = 0x1_0000;

/// Turns of the loop in one step.
const TURNS: usize = 64;

/// Where a step acts; the number is in its first byte.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Space {
    /// Configuration space of the function, by memory.
    Ecam = 0,
    /// The ports of configuration space; from function 128, the first place of the ports of that function less 128.
    Ports = 1,
    /// The first place of the function's BAR.
    Bar = 2,
    /// The window below 4 GiB, in steps of 16 bytes from the place.
    LowWindow = 3,
    /// Guest memory.
    Memory = 4,
    /// COM1.
    Serial = 5,
    /// Any address: the value.
    Anywhere = 6,
    /// No access: devices work on what they were kicked for.
    Work = 7,
}

impl Space {
    const ALL: [Self; 8] = [
        Self::Ecam,
        Self::Ports,
        Self::Bar,
        Self::LowWindow,
        Self::Memory,
        Self::Serial,
        Self::Anywhere,
        Self::Work,
    ];
}

/// A disk of zeroes that is nowhere in the file system.
pub fn memory_file(len: u64) -> OwnedFd {
    let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&file, len).expect("memfd");
    file
}

struct Machine {
    root: Arc<PciRoot>,
    bus: Arc<Bus>,
    port_bus: Arc<Bus>,
    memory: Memory,
    ecam: Ecam,
    ports: ConfigPorts,
    serial: Serial,
    event_loop: EventLoop,
}

/// Plays an input. The doubles insist on BARs inside the windows, and on places taken back before they are given anew.
pub fn play(input: &[u8]) {
    Machine::new().play(input);
}

/// Restores devices from any state at all. One that is taken is what would be saved, and whatever is in it, devices
/// come to rest and can be reset.
pub fn restore(input: &[u8]) {
    let Ok(saved) = postcard::from_bytes::<Vec<FunctionState>>(input) else {
        return;
    };
    let machine = Machine::new();
    if machine.root.restore(&saved).is_err() {
        return;
    }
    let again = machine.root.save().expect("all can be saved");
    for (function, saved) in again.iter().zip(&saved) {
        assert_eq!(function.configuration, saved.configuration);
        let (Some(virtio), Some(saved)) = (&function.virtio, &saved.virtio) else {
            continue;
        };
        assert_eq!(virtio.accepted, saved.accepted);
        assert_eq!(virtio.status & !64, saved.status & !64);
        assert_eq!(virtio.queues, saved.queues);
    }
    machine.work();
    for function in 0..again.len() as u64 {
        let base = WINDOW + function * BAR;
        machine.access(base + 0x14, true, &mut [0]);
    }
    machine.work();
}

/// The state of the devices after an input was played, as [`restore`] reads it.
pub fn saved(input: &[u8]) -> Vec<u8> {
    let mut machine = Machine::new();
    machine.play(input);
    let saved = machine.root.save().expect("all can be saved");
    postcard::to_stdvec(&saved).expect("plain data")
}

fn add(root: &PciRoot, function: impl PciFunction + 'static) {
    root.add(Arc::new(Mutex::new(function))).expect("room");
}

impl Machine {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let memory = Arc::new(memory);
        let bus = Arc::new(Bus::new());
        let port_bus = Arc::new(Bus::new());
        let root = PciRoot::new(bus.clone(), WINDOWS.to_vec());
        let root = Arc::new(root.with_ports(port_bus.clone(), PORTS));
        let event_loop = EventLoop::new().expect("epoll");
        let services = HostServices {
            memory: memory.clone(),
            router: Arc::new(Router::default()),
            notify: Arc::new(Notify::new(vec![PORTS])),
        };
        let disk = RawDisk::open(memory_file(DISK), Access::ReadWrite).expect("a disk");
        let serial = DiskSerial::new("fuzz").expect("a serial");
        let loops = vec![event_loop.clone()];
        let block = Block::new(Box::new(disk), serial, Access::ReadWrite, loops);
        let rng = Rng::new(Box::new(MonotonicClock::new())).expect("timer");
        let cid = GuestCid::new(3).expect("a guest");
        let vsock = Vsock::new(cid, Vec::new()).expect("eventfd");
        let devices: [Arc<Mutex<dyn VirtioDevice>>; 4] = [
            Arc::new(Mutex::new(block)),
            Arc::new(Mutex::new(rng)),
            Arc::new(Mutex::new(Console::new(Arc::new(Silence)))),
            Arc::new(Mutex::new(vsock)),
        ];
        for device in devices {
            let function = VirtioPci::new(device, &event_loop, services.clone());
            add(&root, function.expect("a function"));
        }
        let mapper = Arc::new(Mapper::new(WINDOWS.to_vec(), WINDOW_MEMORY));
        let window_memory = WindowMemory::new(WINDOW_MEMORY, mapper);
        add(&root, window_memory.expect("a power of two"));
        let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Self {
            root: root.clone(),
            bus,
            port_bus,
            memory,
            // Not on the bus, which the root holds: they would hold each other for ever.
            ecam: Ecam::new(root.clone()),
            ports: ConfigPorts::new(root),
            serial: Serial::new(irq, Arc::new(Silence)),
            event_loop,
        }
    }

    fn play(&mut self, input: &[u8]) {
        let mut input = Input(input);
        while let Some([what, function, p0, p1, value @ ..]) = input.take::<12>() {
            self.step(what, function, u16::from_le_bytes([p0, p1]), value);
        }
        self.work();
    }

    fn step(&mut self, what: u8, function: u8, place: u16, value: [u8; 8]) {
        let write = what & 8 != 0;
        let width = 1 << (what >> 4 & 3);
        let mut data = value;
        let data = &mut data[..width];
        let place = u64::from(place);
        let (offset, function) = (place % BAR, u64::from(function));
        match Space::ALL[usize::from(what & 7)] {
            Space::Ecam => {
                let offset = function << 12 | place & 0xfff;
                if write {
                    self.ecam.write(offset, data);
                } else {
                    self.ecam.read(offset, data);
                }
            }
            Space::Ports if function >= 128 => {
                let port = PORTS.start + function % 8 * DOORBELLS + place % DOORBELLS;
                if write {
                    self.port_bus.write(port, data);
                } else {
                    self.port_bus.read(port, data);
                }
            }
            Space::Ports => {
                // The bus lets no access cross the end.
                let offset = place % (ConfigPorts::LEN + 1).saturating_sub(width_of(data));
                if write {
                    self.ports.write(offset, data);
                } else {
                    self.ports.read(offset, data);
                }
            }
            Space::Bar => self.access(WINDOW + function % 8 * BAR + offset, write, data),
            Space::LowWindow => self.access(WINDOWS[0].start + place * 16, write, data),
            // Fails at the end of memory, where a guest could not write either.
            Space::Memory => {
                let _ = self.memory.write_slice(data, GuestAddress(place));
            }
            Space::Serial if write => self.serial.write(place % Serial::LEN, data),
            Space::Serial => self.serial.read(place % Serial::LEN, data),
            Space::Anywhere => self.access(u64::from_le_bytes(value), write, data),
            Space::Work => self.work(),
        }
    }

    fn access(&self, address: u64, write: bool, data: &mut [u8]) {
        if write {
            self.bus.write(address, data);
        } else {
            self.bus.read(address, data);
        }
    }

    fn work(&self) {
        for _ in 0..TURNS {
            if self.event_loop.run_ready().expect("epoll") == 0 {
                return;
            }
        }
    }
}

fn width_of(data: &[u8]) -> u64 {
    u64::try_from(data.len()).expect("at most 8")
}
