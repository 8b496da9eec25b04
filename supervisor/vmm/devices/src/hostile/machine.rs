//! A guest with one device on its bus, whose driver reaches it only as a guest can: through registers and memory.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use virtio_queue::desc::{RawDescriptor, split};
use vm_memory::{ByteValued, Bytes as _, GuestAddress};

use super::arena::{Arena, REGIONS, len};
use super::registers::{
    ACCEPTED, ACCEPTED_SELECT, OFFERED, OFFERED_SELECT, QUEUE_DESCRIPTORS, QUEUE_DEVICE,
    QUEUE_DRIVER, QUEUE_ENABLE, QUEUE_SELECT, QUEUE_SIZE, QUEUES, Register, STATUS,
};
use super::target::{Far, Target};
use crate::bus::Bus;
use crate::event_loop::EventLoop;
use crate::fake::{Descriptor, FakeNotify, FakeRouter, QUEUE, WRITE};
use crate::pci::{ConfigPorts, Ecam, PciRoot};
use crate::virtio::{HostServices, Memory, VirtioPci};

/// Where configuration space is, and where BARs are at first.
pub(super) const ECAM: u64 = 0xe000_0000;
pub(super) const WINDOW: u64 = 0x40_0000_0000;
/// Where BARs of ports may be; the first place is the device's.
pub(super) const PORTS: u64 = 0xc000;
const PORTS_END: u64 = 0x1_0000;
const WINDOWS: [Range<u64>; 2] = [0xc000_0000..0xd000_0000, WINDOW..0x41_0000_0000];

/// Rings of queue 0; those of the next are `STRIDE` behind.
const RINGS: u64 = 0x1_0000;
const STRIDE: u64 = 0x4000;
/// The rings of a queue, from its descriptors.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;

/// Where drivers keep the buffers of a good request.
pub(super) const BUFFERS: u64 = 0x4_0000;
/// Where hostile tables may be: a small one, and one of 65535 descriptors.
pub(super) const TABLE: u64 = 0x8_0000;
pub(super) const BIG_TABLE: u64 = 0x20_0000;

const PAGE: usize = 0x1000;
const NEEDS_RESET: u64 = 64;
const EVENT_INDEX: u64 = 1 << 29;

/// Turns of the loop after which a device is said never to come to rest.
const MAX_TURNS: usize = 100_000;

/// One queue, as the driver counts.
#[derive(Clone, Copy, Default)]
struct Ring {
    /// Chains made available, and answers expected, ever since the device was started.
    offered: u16,
    answered: u16,
}

/// The guest.
pub(super) struct Machine {
    pub(super) target: Target,
    pub(super) far: Far,
    pub(super) memory: Memory,
    pub(super) bus: Arc<Bus>,
    pub(super) ports: Arc<Bus>,
    pub(super) router: Arc<FakeRouter>,
    event_loop: EventLoop,
    rings: Vec<Ring>,
    /// What the device may write to: buffers that it was given since it was started.
    writable: Vec<Range<u64>>,
    /// The attack lets the device write over its own rings, so what it finds there afterwards is anyone's guess.
    pub(super) is_chaos: bool,
    /// Event indexes are to be negotiated, and these features not.
    pub(super) event_index: bool,
    pub(super) without: u64,
    /// Heads made available since the last look.
    heads: BTreeSet<u32>,
    /// Memory as it was at the last look, region by region.
    before: Vec<Vec<u8>>,
    arena: Arena,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The buses and the root of the PCI bus would hold each other, and every descriptor, for ever.
        self.bus.remove(ECAM);
        self.ports.remove(ConfigPorts::BASE);
    }
}

impl Machine {
    /// With the target's device in slot 1, its BAR decoded, nothing negotiated.
    pub(super) fn new(target: Target) -> Self {
        let (arena, memory) = Arena::new();
        let event_loop = EventLoop::new().expect("epoll");
        let (device, far) = target.device(&event_loop);
        let bus = Arc::new(Bus::new());
        let ports = Arc::new(Bus::new());
        let router = FakeRouter::new();
        let root = PciRoot::new(bus.clone(), WINDOWS.to_vec());
        let root = Arc::new(root.with_ports(ports.clone(), PORTS..PORTS_END));
        let services = HostServices {
            memory: memory.clone(),
            router: router.clone(),
            notify: FakeNotify::new(),
        };
        let function = VirtioPci::new(device, &event_loop, services).expect("a function");
        root.add(Arc::new(Mutex::new(function))).expect("a slot");
        let ecam = Arc::new(Mutex::new(Ecam::new(root.clone())));
        bus.insert(ECAM, Ecam::LEN, ecam).expect("free");
        let config = Arc::new(Mutex::new(ConfigPorts::new(root)));
        let base = ConfigPorts::BASE;
        ports.insert(base, ConfigPorts::LEN, config).expect("free");
        let machine = Self {
            target,
            far,
            memory,
            bus,
            ports,
            router,
            event_loop,
            rings: Vec::new(),
            writable: Vec::new(),
            is_chaos: false,
            event_index: false,
            without: target.without(),
            heads: BTreeSet::new(),
            before: REGIONS.iter().map(|region| vec![0; len(region)]).collect(),
            arena,
        };
        machine.write_config(0x04, &[7, 0]);
        machine
    }

    // Registers.

    /// Writes configuration space of the device.
    pub(super) fn write_config(&self, register: u64, data: &[u8]) {
        self.bus.write(ECAM + 0x8000 + register, data);
    }

    /// Reads configuration space of the device.
    pub(super) fn config(&self, register: u64, len: usize) -> u64 {
        read(&self.bus, ECAM + 0x8000 + register, len)
    }

    pub(super) fn get(&self, (offset, len): Register) -> u64 {
        read(&self.bus, WINDOW + offset, len)
    }

    pub(super) fn set(&self, (offset, len): Register, value: u64) {
        self.bus.write(WINDOW + offset, &value.to_le_bytes()[..len]);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.get(STATUS) & NEEDS_RESET != 0
    }

    /// Up to FEATURES_OK, with everything offered but what is left out.
    pub(super) fn negotiate(&mut self) {
        for status in [0, 1, 3] {
            self.set(STATUS, status);
        }
        for half in 0..2 {
            self.set(OFFERED_SELECT, half);
            let mut features = self.get(OFFERED) << (32 * half);
            features &= !self.without;
            if !self.event_index {
                features &= !EVENT_INDEX;
            }
            self.set(ACCEPTED_SELECT, half);
            self.set(ACCEPTED, features >> (32 * half));
        }
        self.set(STATUS, 11);
        let count = usize::try_from(self.get(QUEUES)).expect("few");
        self.rings = vec![Ring::default(); count];
        self.heads.clear();
        self.writable.clear();
    }

    /// Writes a queue's registers and clears its rings.
    pub(super) fn describe_queue(&self, index: u16) {
        let base = rings(index);
        let zeros = vec![0; usize::try_from(STRIDE).expect("small")];
        self.write(base, &zeros);
        self.set(QUEUE_SELECT, index.into());
        self.set(QUEUE_SIZE, QUEUE.into());
        self.set(QUEUE_DESCRIPTORS, base);
        self.set(QUEUE_DRIVER, base + AVAILABLE);
        self.set(QUEUE_DEVICE, base + USED);
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = u16> + use<> {
        0..u16::try_from(self.rings.len()).expect("few")
    }

    /// The whole way of a well-behaved driver.
    pub(super) fn start(&mut self) {
        self.negotiate();
        for index in self.queues() {
            self.describe_queue(index);
            self.set(QUEUE_ENABLE, 1);
        }
        self.set(STATUS, 15);
        assert!(!self.is_broken(), "a good driver starts it");
        self.run();
        self.target.prepare(self);
    }

    // Memory.

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("in memory");
    }

    pub(super) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("in memory");
        bytes
    }

    fn store<T: ByteValued>(&self, address: u64, value: T) {
        self.memory
            .write_obj(value, GuestAddress(address))
            .expect("in memory");
    }

    fn load<T: ByteValued>(&self, address: u64) -> T {
        self.memory
            .read_obj(GuestAddress(address))
            .expect("in memory")
    }

    /// Writes a table of descriptors; what they let the device write to is remembered.
    pub(super) fn table(&mut self, address: u64, descriptors: &[Descriptor]) {
        let mut bytes = Vec::new();
        for (target, len, flags, next) in descriptors {
            if flags & WRITE != 0 {
                let end = target.saturating_add(u64::from(*len));
                self.writable.push(*target..end);
            }
            let raw = RawDescriptor::from(split::Descriptor::new(*target, *len, *flags, *next));
            bytes.extend_from_slice(raw.as_slice());
        }
        self.write(address, &bytes);
    }

    // The queue under attack.

    pub(super) fn rings(&self) -> u64 {
        rings(self.target.queue())
    }

    pub(super) fn available(&self) -> u64 {
        self.rings() + AVAILABLE
    }

    pub(super) fn used(&self) -> u64 {
        self.rings() + USED
    }

    /// Writes descriptors from entry 0 and makes heads available.
    pub(super) fn offer(&mut self, descriptors: &[Descriptor], heads: &[u16]) {
        self.offer_on(self.target.queue(), descriptors, heads);
    }

    pub(super) fn offer_on(&mut self, queue: u16, descriptors: &[Descriptor], heads: &[u16]) {
        self.table(rings(queue), descriptors);
        let ring = &mut self.rings[usize::from(queue)];
        let mut index = ring.offered;
        ring.offered = ring
            .offered
            .wrapping_add(u16::try_from(heads.len()).expect("few"));
        for head in heads {
            let place = rings(queue) + AVAILABLE + 4 + 2 * u64::from(index % QUEUE);
            self.store(place, *head);
            index = index.wrapping_add(1);
            if queue == self.target.queue() {
                self.heads.insert((*head).into());
            }
        }
        self.set_available(queue, index);
    }

    fn set_available(&self, queue: u16, index: u16) {
        self.store(rings(queue) + AVAILABLE + 2, index);
    }

    /// Moves the available index without writing any entry.
    pub(super) fn jump(&mut self, by: u16) {
        let queue = self.target.queue();
        let ring = &mut self.rings[usize::from(queue)];
        ring.offered = ring.offered.wrapping_add(by);
        let index = ring.offered;
        self.heads.extend(0..u32::from(QUEUE));
        self.set_available(queue, index);
    }

    pub(super) fn kick(&self, queue: u16) {
        let port = PORTS + 4 * u64::from(queue);
        self.ports.write(port, &queue.to_le_bytes());
    }

    /// Lets devices work until nothing is ready.
    pub(super) fn run(&self) {
        for _ in 0..MAX_TURNS {
            if self.event_loop.run_ready().expect("epoll") == 0 {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Number of chains that wait in the queue under attack, as the driver counts.
    pub(super) fn waiting(&self) -> u16 {
        let ring = self.rings[usize::from(self.target.queue())];
        ring.offered.wrapping_sub(ring.answered)
    }

    /// The used index of a queue, as the device left it, and what it says of the chain used last.
    pub(super) fn used_of(&self, queue: u16) -> (u16, u32, u32) {
        let used = rings(queue) + USED;
        let index: u16 = self.load(used + 2);
        let entry = used + 4 + 8 * u64::from(index.wrapping_sub(1) % QUEUE);
        (index, self.load(entry), self.load(entry + 4))
    }

    /// Kicks and lets the device work on what is in the queue; then looks at everything that it may not have done.
    pub(super) fn work(&mut self) {
        for (region, before) in REGIONS.iter().zip(&mut self.before) {
            self.memory
                .read_slice(before, GuestAddress(region.start))
                .expect("in memory");
        }
        self.serve();
        self.check_memory();
    }

    /// Like [`Machine::work`], without a look at memory.
    pub(super) fn serve(&mut self) {
        self.kick(self.target.queue());
        self.run();
        let waiting = self.waiting();
        self.target.stimulate(self, waiting.min(QUEUE));
        self.run();
        self.check_used(waiting);
    }

    fn check_used(&mut self, waiting: u16) {
        let answers = self.collect(self.target.queue());
        if self.is_chaos {
            return;
        }
        let done = answers.len();
        assert!(
            done <= usize::from(waiting),
            "{done} answers to {waiting} chains"
        );
        for (head, _) in answers {
            assert!(
                self.heads.contains(&head),
                "an answer to head {head}, which was not offered"
            );
        }
        if !self.is_broken() {
            assert_eq!(
                done,
                usize::from(waiting),
                "every chain is answered, or a reset is needed"
            );
        }
    }

    /// Heads and lengths that the device has used in a queue since the last look.
    pub(super) fn collect(&mut self, queue: u16) -> Vec<(u32, u32)> {
        let used = rings(queue) + USED;
        let index: u16 = self.load(used + 2);
        let ring = &mut self.rings[usize::from(queue)];
        let first = std::mem::replace(&mut ring.answered, index);
        let count = index.wrapping_sub(first).min(QUEUE);
        (0..count)
            .map(|at| {
                let place = u64::from(first.wrapping_add(at) % QUEUE);
                let entry = used + 4 + 8 * place;
                (self.load(entry), self.load(entry + 4))
            })
            .collect()
    }

    /// Memory is as it was, but for used rings and buffers that the device was given.
    fn check_memory(&self) {
        let mut now = [0; PAGE];
        for (region, before) in REGIONS.iter().zip(&self.before) {
            for (start, before) in (region.start..).step_by(PAGE).zip(before.chunks(PAGE)) {
                self.memory
                    .read_slice(&mut now, GuestAddress(start))
                    .expect("in memory");
                if before != now && !self.target.gives_page(&now) {
                    self.check_page(start, before, &now);
                }
            }
        }
        assert!(
            self.arena.is_intact(),
            "a byte next to guest memory was changed"
        );
    }

    fn check_page(&self, start: u64, before: &[u8], now: &[u8]) {
        let used = self.queues().map(|queue| {
            let used = rings(queue) + USED;
            used..used + 6 + 8 * u64::from(QUEUE)
        });
        let mut allowed: Vec<Range<u64>> = used.collect();
        allowed.extend(self.writable.iter().cloned());
        allowed.extend(self.target.may_write());
        for (address, (before, now)) in (start..).zip(before.iter().zip(now)) {
            assert!(
                before == now || allowed.iter().any(|range| range.contains(&address)),
                "the byte at {address:#x}, which is none of the device's, was changed"
            );
        }
    }

    /// A good request on the device as it is, reset and started again if it says that it needs that.
    pub(super) fn assert_serves(&mut self) {
        if self.is_broken() || self.is_chaos {
            self.is_chaos = false;
            self.start();
        }
        self.good();
        self.start();
        self.good();
    }

    /// A good request, answered as it should be.
    pub(super) fn good(&mut self) {
        self.target.refresh(self);
        let chain = self.target.good(self);
        self.offer(&chain, &[0]);
        self.work();
        assert!(!self.is_broken(), "a good request breaks nothing");
        let (_, head, written) = self.used_of(self.target.queue());
        assert_eq!(head, 0);
        self.target.check_served(self, written);
    }

    /// The descriptors of a good request whose data is in place; nothing is offered yet.
    pub(super) fn good_chain(&mut self) -> Vec<Descriptor> {
        self.target.refresh(self);
        self.target.good(self)
    }
}

pub(super) fn rings(queue: u16) -> u64 {
    RINGS + STRIDE * u64::from(queue)
}

pub(super) fn read(bus: &Bus, address: u64, len: usize) -> u64 {
    let mut data = [0; 8];
    bus.read(address, &mut data[..len]);
    u64::from_le_bytes(data)
}
