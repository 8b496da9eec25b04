//! The devices of one VM, put together from what was inherited.
//!
//! Order on the bus is the guest's order: disks first, so that the first one is `vda`.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use casemate_devices::balloon::{Balloon, BalloonHandle};
use casemate_devices::blk::{Access, Block, Disk, Overlay, RawDisk, Serial as DiskSerial};
use casemate_devices::bus::{Bus, BusDevice};
use casemate_devices::console::{Console, ConsoleSink, RingFile};
use casemate_devices::event_loop::EventLoop;
use casemate_devices::net::{Net, Wire};
use casemate_devices::pci::{ConfigPorts, Ecam, HotPlug, MsiRouter, PciFunction, PciRoot};
use casemate_devices::rng::{MonotonicClock, Rng};
use casemate_devices::serial::Serial;
use casemate_devices::snd::{Host, Mixer, Sound, SoundHandle};
use casemate_devices::virtio::{HostServices, VirtioDevice, VirtioPci};
use casemate_devices::vsock::{GuestCid, Vsock, VsockHandle};
use casemate_devices::window_memory::WindowMemory;
use casemate_link::PacketSocket;
use casemate_vm::VmId;
use casemate_vmm_control::{LinkKind, MacAddress};

use crate::inherited::{self, DiskFiles, InheritedDisk, InheritedSound};
use crate::jail::ThreadClass;
use crate::machine::{KvmKicks, KvmRoutes, Line, Machine, WindowSlot, layout};
use crate::plug::Plugs;
use crate::power::{self, KeyboardReset, PowerRegisters};
use crate::snapshot::{DeviceState, ServedDisk};
use crate::stop::Stop;
use crate::vcpu::Gate;
use crate::vfio::{self, Assigned};

/// What a VM's devices are made of.
#[derive(Debug)]
pub(crate) struct Peripherals {
    /// vsock CID.
    pub(crate) id: VmId,
    /// In guest order.
    pub(crate) disks: Vec<InheritedDisk>,
    /// Network devices, in guest order.
    pub(crate) networks: Vec<(MacAddress, Wire)>,
    /// Whether the guest may give memory back; never with an assigned device.
    pub(crate) balloon: bool,
    /// The sound card.
    pub(crate) sound: Option<InheritedSound>,
    /// PCI devices of the host.
    pub(crate) assigned: Option<Assigned>,
    /// The memfd shared with the compositor.
    pub(crate) window_memory: Option<OwnedFd>,
    /// Where the consoles print.
    pub(crate) console_log: OwnedFd,
    /// Services that offer streams.
    pub(crate) links: Vec<(LinkKind, PacketSocket)>,
}

/// Devices that are ready for the guest.
pub(crate) struct Devices {
    /// Everything memory-mapped.
    pub(crate) memory_bus: Arc<Bus>,
    /// Everything behind ports.
    pub(crate) port_bus: Arc<Bus>,
    /// Attaches links later.
    pub(crate) vsock: VsockHandle,
    /// Asks for memory, when there is a balloon.
    pub(crate) balloon: Option<BalloonHandle>,
    /// The sound card, if there is one.
    pub(crate) sound: Option<SoundCard>,
    /// Presses the power button.
    pub(crate) power_button: Line,
    /// Adds and removes devices later.
    pub(crate) plugs: Plugs,
    /// Serves those that are plugged in later.
    pub(crate) plug_loop: EventLoop,
    /// Disks, each with the loops that serve it.
    pub(crate) disks: Vec<ServedDisk>,
    /// For snapshots.
    pub(crate) root: Arc<PciRoot>,
    /// For snapshots.
    pub(crate) config_ports: Arc<Mutex<ConfigPorts>>,
    /// For snapshots.
    pub(crate) serial: Arc<Mutex<Serial>>,
    /// Held: an interrupt that was sent before the guest runs would be lost with its line.
    pub(crate) _generation: Line,
}

/// A sound card that is ready for the guest.
pub(crate) struct SoundCard {
    /// For snapshots, before which it gives back what it holds.
    pub(crate) device: Arc<Mutex<dyn VirtioDevice>>,
    /// Changes who hears and who is heard.
    pub(crate) handle: SoundHandle,
    /// Whether there is anything to grant.
    pub(crate) can_record: bool,
}

impl fmt::Debug for SoundCard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SoundCard")
            .field("can_record", &self.can_record)
            .finish_non_exhaustive()
    }
}

/// Most workers of a disk: one for each vCPU, and no more than this, because each is a thread of every VM with its own stack
/// and filter.
const MAX_WORKERS: usize = 4;

/// Interrupt routes for devices that come while the VM runs: a disk takes two, so eight can be there at a time. Each takes a
/// descriptor and some of every start.
const SPARE_ROUTES: usize = 16;

/// Builds all devices. Slow ones are served by `main_loop`, each disk by a loop of its own. With `saved` they go on from
/// there; the machine's interrupt controllers must be restored by then.
pub(crate) fn assemble(
    machine: &Machine,
    peripherals: Peripherals,
    main_loop: &EventLoop,
    stop: &Arc<Stop>,
    saved: Option<&DeviceState>,
) -> Result<Devices> {
    let memory_bus = Arc::new(Bus::new());
    let port_bus = Arc::new(Bus::new());
    let windows = vec![layout::PCI_WINDOW_32, machine.pci_window_64.clone()];
    let root = PciRoot::new(Arc::clone(&memory_bus), windows);
    let root = Arc::new(root.with_ports(Arc::clone(&port_bus), layout::PCI_PORT_WINDOW));
    let routes = Arc::new(KvmRoutes::new(Arc::clone(&machine.vm)));
    let services = HostServices {
        memory: Arc::clone(&machine.memory),
        router: Arc::clone(&routes) as Arc<dyn MsiRouter>,
        notify: Arc::new(KvmKicks(Arc::clone(&machine.vm))),
    };

    let workers = machine.vcpus.len().clamp(1, MAX_WORKERS);
    let mut disks = Vec::new();
    for disk in peripherals.disks {
        let name = disk.serial.clone();
        let workers = (0..workers)
            .map(|_| EventLoop::new())
            .collect::<io::Result<Vec<_>>>()?;
        let first = workers.first().context("a disk has a worker")?.clone();
        let block = open_disk(disk, workers.clone()).with_context(|| format!("disk {name}"))?;
        let device = add_virtio(&root, block, &first, &services)?;
        disks.push(ServedDisk { workers, device });
    }
    for (mac, wire) in peripherals.networks {
        add_virtio(&root, Net::new(mac, wire), main_loop, &services)?;
    }
    let mut balloon_handle = None;
    if peripherals.balloon {
        let balloon = Balloon::new().context("balloon")?;
        balloon_handle = Some(balloon.handle());
        add_virtio(&root, balloon, main_loop, &services)?;
    }
    let rng = Rng::new(Box::new(MonotonicClock::new())).context("random number device")?;
    add_virtio(&root, rng, main_loop, &services)?;
    let sink: Arc<dyn ConsoleSink> = Arc::new(
        RingFile::open(File::from(peripherals.console_log))
            .context("cannot use the console log")?,
    );
    add_virtio(&root, Console::new(Arc::clone(&sink)), main_loop, &services)?;
    let cid = GuestCid::new(peripherals.id.0)?;
    let vsock = Vsock::new(cid, peripherals.links).context("vsock device")?;
    let handle = vsock.handle();
    add_virtio(&root, vsock, main_loop, &services)?;
    if let Some(memfd) = peripherals.window_memory {
        add_window_memory(&root, machine, memfd).context("window memory")?;
    }
    let sound = match peripherals.sound {
        Some(sound) => Some(add_sound(&root, sound, main_loop, &services).context("sound card")?),
        None => None,
    };

    let plug_loop = EventLoop::new()?;
    let plug_line = Line::new(&machine.vm, layout::HOT_PLUG_GSI).context("hot-plug")?;
    let plugs = Plugs::new(&root, plug_line, services, plug_loop.clone()).context("hot-plug")?;
    if let Some(assigned) = peripherals.assigned {
        let host = vfio::Host {
            machine,
            router: Arc::clone(&routes) as Arc<dyn MsiRouter>,
            event_loop: main_loop,
        };
        for (function, line) in vfio::attach(assigned, &host)? {
            let slot = plugs.adopt(function).context("PCI bus")?;
            if let Some(line) = line {
                line.connect(&machine.vm, slot)
                    .context("KVM refused an interrupt line")?;
            }
        }
    }
    routes
        .seal(SPARE_ROUTES)
        .context("KVM refused interrupt routes")?;

    let hot_plug = plugs.controller().registers();
    insert(&port_bus, layout::HOT_PLUG.into(), HotPlug::LEN, hot_plug)?;
    insert(
        &memory_bus,
        layout::ECAM,
        layout::ECAM_LEN,
        Ecam::new(Arc::clone(&root)),
    )?;
    let ports = Arc::new(Mutex::new(ConfigPorts::new(Arc::clone(&root))));
    port_bus.insert(ConfigPorts::BASE, ConfigPorts::LEN, ports.clone())?;
    let serial_line = Line::new(&machine.vm, layout::COM1_GSI).context("serial port")?;
    let serial = match saved {
        Some(saved) => Serial::restored(&saved.serial, serial_line.into(), sink)?,
        None => Serial::new(serial_line.into(), sink),
    };
    let serial = Arc::new(Mutex::new(serial));
    let (com1, com1_len) = (layout::COM1.into(), layout::COM1_LEN.into());
    port_bus.insert(com1, com1_len, serial.clone())?;
    let power = PowerRegisters(Arc::clone(stop));
    insert(&port_bus, layout::POWER.into(), power::LEN.into(), power)?;
    let keyboard = KeyboardReset(Arc::clone(stop));
    insert(&port_bus, layout::I8042_COMMAND.into(), 1, keyboard)?;

    let generation = Line::new(&machine.vm, layout::GENERATION_GSI).context("generation")?;
    if let Some(saved) = saved {
        root.restore(&saved.functions)?;
        let mut ports = ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.set_address(saved.pci_address);
    }
    routes.commit().context("KVM refused interrupt routes")?;
    if saved.is_some() {
        generation.pulse();
    }

    Ok(Devices {
        memory_bus,
        port_bus,
        vsock: handle,
        balloon: balloon_handle,
        sound,
        power_button: Line::new(&machine.vm, layout::POWER_BUTTON_GSI).context("power button")?,
        plugs,
        plug_loop,
        disks,
        root,
        config_ports: ports,
        serial,
        _generation: generation,
    })
}

fn insert(bus: &Bus, base: u64, len: u64, device: impl BusDevice + 'static) -> Result<()> {
    bus.insert(base, len, Arc::new(Mutex::new(device)))
        .context("two devices at one address")
}

fn add_virtio(
    root: &PciRoot,
    device: impl VirtioDevice + 'static,
    event_loop: &EventLoop,
    services: &HostServices,
) -> Result<Arc<Mutex<dyn VirtioDevice>>> {
    let device: Arc<Mutex<dyn VirtioDevice>> = Arc::new(Mutex::new(device));
    let function = VirtioPci::new(Arc::clone(&device), event_loop, services.clone())?;
    add(root, function)?;
    Ok(device)
}

fn add(root: &PciRoot, function: impl PciFunction + 'static) -> Result<()> {
    root.add(Arc::new(Mutex::new(function)))?;
    Ok(())
}

/// Opens a disk that these loops serve, each a queue of it.
pub(crate) fn open_disk(disk: InheritedDisk, workers: Vec<EventLoop>) -> Result<Block> {
    let access = if disk.read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let bytes: Box<dyn Disk> = match disk.files {
        DiskFiles::Raw(file) => Box::new(RawDisk::open(file, access)?),
        DiskFiles::Overlay { file, base } => Box::new(Overlay::open(file, base)?),
    };
    let serial = DiskSerial::new(&disk.serial)?;
    Ok(Block::new(bytes, serial, access, workers))
}

fn add_sound(
    root: &PciRoot,
    sound: InheritedSound,
    main_loop: &EventLoop,
    services: &HostServices,
) -> Result<SoundCard> {
    let can_record = sound.can_record;
    let speaker = sound
        .speaker
        .map(|socket| Box::new(Mixer::new(socket)) as Box<dyn Host>);
    let clock = Box::new(MonotonicClock::new());
    let sound = Sound::new(can_record, speaker, clock)?;
    let handle = sound.handle();
    Ok(SoundCard {
        device: add_virtio(root, sound, main_loop, services)?,
        handle,
        can_record,
    })
}

fn add_window_memory(root: &PciRoot, machine: &Machine, memfd: OwnedFd) -> Result<()> {
    let len = inherited::len(&memfd)?;
    let slot = WindowSlot::new(Arc::clone(&machine.vm), memfd, usize::try_from(len)?)?;
    add(root, WindowMemory::new(len, Arc::new(slot))?)
}

/// Running disk threads.
#[derive(Debug)]
pub(crate) struct DiskThreads(Vec<(EventLoop, JoinHandle<()>)>);

/// Starts one thread per loop; each passes the gate before it serves.
pub(crate) fn run_disks(loops: Vec<EventLoop>, gate: &Gate) -> io::Result<DiskThreads> {
    loops
        .into_iter()
        .enumerate()
        .map(|(index, disk_loop)| {
            let (gate, serving) = (gate.clone(), disk_loop.clone());
            let thread = std::thread::Builder::new()
                .name(format!("disk{index}"))
                .spawn(move || {
                    gate.pass(ThreadClass::Disk);
                    if let Err(error) = serving.run() {
                        tracing::error!(%error, index, "disk loop");
                    }
                })?;
            Ok((disk_loop, thread))
        })
        .collect::<io::Result<_>>()
        .map(DiskThreads)
}

impl DiskThreads {
    /// Ends the threads after the request that they work on, but waits no longer than `limit`.
    /// Returns whether all have ended.
    pub(crate) fn stop(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        for (disk_loop, _) in &self.0 {
            disk_loop.stop();
        }
        for (_, thread) in self.0 {
            while !thread.is_finished() {
                if Instant::now() >= end {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = thread.join();
        }
        true
    }
}
