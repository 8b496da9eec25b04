//! A driver for the vsock device, a service at the other end of a link, and the tables that they run.

mod links;
mod pressure;
mod protocol;
mod restored;
mod streams;

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use casemate_link::PacketSocket;
use casemate_vmm_control::{LinkKind, LinkMessage};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{ByteValued, Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{GuestCid, Vsock, VsockHandle};
use crate::event_loop::{EventLoop, Ready, SubscriberId};
use crate::lock;
use crate::virtio::{Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};

pub(super) const CID: u64 = 7;
const SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;

const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const RX_BUFFERS: u64 = 0x10_0000;
const TX_BUFFERS: u64 = 0x40_0000;
/// Buffers that the driver uses for its packets, in turn.
const TX_COUNT: u64 = 64;
const TX_LEN: u64 = 0x1_1000;
const MEMORY: usize = 16 << 20;

pub(super) const REQUEST: u16 = 1;
pub(super) const RESPONSE: u16 = 2;
pub(super) const RESET: u16 = 3;
pub(super) const SHUTDOWN: u16 = 4;
pub(super) const DATA: u16 = 5;
pub(super) const CREDIT_UPDATE: u16 = 6;
pub(super) const CREDIT_REQUEST: u16 = 7;

pub(super) const NO_RECEIVE: u32 = 1;
pub(super) const NO_SEND: u32 = 2;

/// What [`Guest::operations`] returns when the device said nothing.
pub(super) const QUIET: [u16; 0] = [];

/// A packet, as the driver writes and reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source: u32,
    pub(super) destination: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    pub(super) window: u32,
    pub(super) forwarded: u32,
    pub(super) data: Vec<u8>,
}

impl Packet {
    pub(super) fn new(source: u32, destination: u32, operation: u16) -> Self {
        Self {
            source_cid: CID,
            destination_cid: 2,
            source,
            destination,
            len: 0,
            kind: 1,
            operation,
            flags: 0,
            window: 1 << 20,
            forwarded: 0,
            data: Vec::new(),
        }
    }

    pub(super) fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self.len = u32::try_from(data.len()).expect("small");
        self
    }

    pub(super) fn flags(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    pub(super) fn window(mut self, window: u32, forwarded: u32) -> Self {
        self.window = window;
        self.forwarded = forwarded;
        self
    }

    pub(super) fn header(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_cid.to_le_bytes());
        bytes.extend(self.destination_cid.to_le_bytes());
        bytes.extend(self.source.to_le_bytes());
        bytes.extend(self.destination.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.operation.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.window.to_le_bytes());
        bytes.extend(self.forwarded.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4"));
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2"));
        Self {
            source_cid: u64_at(0),
            destination_cid: u64_at(8),
            source: u32_at(16),
            destination: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            operation: u16_at(30),
            flags: u32_at(32),
            window: u32_at(36),
            forwarded: u32_at(40),
            data: bytes[44..].to_vec(),
        }
    }
}

#[derive(Default)]
struct Signals {
    count: AtomicUsize,
    broken: AtomicBool,
}

impl Interrupt for Signals {
    fn signal(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
    fn config_changed(&self) {}
    fn needs_reset(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Ring {
    available: u16,
    used: u16,
    signals_seen: usize,
}

/// How a driver behaves.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Kicks, and looks for used buffers, only when told so.
    pub(super) event_indexes: bool,
    pub(super) rx_buffers: u16,
    pub(super) rx_len: u32,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            event_indexes: true,
            rx_buffers: 64,
            rx_len: 4096,
        }
    }
}

pub(super) struct Guest {
    pub(super) handle: VsockHandle,
    device: Arc<Mutex<dyn VirtioDevice>>,
    memory: Memory,
    event_loop: EventLoop,
    subscriber: SubscriberId,
    signals: [Arc<Signals>; 2],
    kicks: Vec<EventFd>,
    rings: [Ring; 2],
    pub(super) manner: Manner,
    tx_next: u64,
    /// Packets that came, oldest first.
    pub(super) inbox: Vec<Packet>,
    next_port: u32,
}

impl Guest {
    pub(super) fn new(manner: Manner, links: Vec<(LinkKind, PacketSocket)>) -> Self {
        let cid = GuestCid::new(u32::try_from(CID).expect("small")).expect("a guest's");
        let device = Vsock::new(cid, links).expect("a device");
        let handle = device.handle();
        let device: Arc<Mutex<dyn VirtioDevice>> = Arc::new(Mutex::new(device));
        let event_loop = EventLoop::new().expect("epoll");
        let subscriber = event_loop.add(Arc::clone(&device));
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let mut guest = Self {
            handle,
            device,
            memory: Arc::new(memory),
            event_loop,
            subscriber,
            signals: Default::default(),
            kicks: Vec::new(),
            rings: Default::default(),
            manner,
            tx_next: 0,
            inbox: Vec::new(),
            next_port: 1000,
        };
        guest.activate();
        guest
    }

    /// A guest whose qrexec service is at hand.
    pub(super) fn with_service() -> (Self, Service) {
        let (service, link) = Service::new();
        (
            Self::new(Manner::default(), vec![(LinkKind::Rpc, link)]),
            service,
        )
    }

    fn activate(&mut self) {
        self.signals = Default::default();
        self.rings = Default::default();
        self.kicks = (0..3)
            .map(|_| EventFd::new(EFD_NONBLOCK).expect("eventfd"))
            .collect();
        let queue = |index: usize| {
            let mut queue = Queue::new(SIZE).expect("a power of two");
            let address = |offset| u32::try_from(base(index) + offset).ok();
            queue.set_desc_table_address(address(0), None);
            queue.set_avail_ring_address(address(AVAILABLE), None);
            queue.set_used_ring_address(address(USED), None);
            queue.set_event_idx(self.manner.event_indexes);
            queue.set_ready(true);
            queue
        };
        let queues = (0..3).map(|index| {
            let kick = self.kicks[index].try_clone().expect("eventfd");
            ActiveQueue::new(queue(index), kick, self.signals[index % 2].clone())
        });
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues: queues.collect(),
            features: 1 << 32,
        };
        lock(&self.device)
            .activate(activation, &mut self.event_loop.registrar(self.subscriber))
            .expect("activation");
        for index in 0..self.manner.rx_buffers {
            self.post(index);
        }
    }

    /// Resets the device and starts again.
    pub(super) fn restart(&mut self) {
        lock(&self.device).reset(&mut self.event_loop.registrar(self.subscriber));
        let zeroes = vec![0; 0x10_0000];
        self.memory
            .write_slice(&zeroes, GuestAddress(0))
            .expect("the rings");
        self.activate();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.signals
            .iter()
            .any(|signals| signals.broken.load(Ordering::Relaxed))
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

    fn descriptor(&self, queue: usize, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = base(queue) + 16 * u64::from(index);
        self.store(at, address);
        self.store(at + 8, len);
        self.store(at + 12, flags);
        self.store(at + 14, next);
    }

    /// Makes a head available and kicks if the device wants to hear of it.
    fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let old = ring.available;
        ring.available = old.wrapping_add(1);
        let new = ring.available;
        let available = base(queue) + AVAILABLE;
        self.store(available + 4 + 2 * u64::from(old % SIZE), head);
        self.store(available + 2, new);
        let wanted: u16 = self.load(base(queue) + USED + 4 + 8 * u64::from(SIZE));
        let wants = new.wrapping_sub(wanted).wrapping_sub(1) < new.wrapping_sub(old);
        if wants || !self.manner.event_indexes {
            self.kick(queue);
        }
    }

    pub(super) fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).expect("not full");
    }

    /// Gives the device one of the driver's receive buffers.
    pub(super) fn post(&mut self, index: u16) {
        let address = RX_BUFFERS + 0x1000 * u64::from(index);
        let len = self.manner.rx_len;
        self.descriptor(RX, index, address, len, 2, 0);
        self.publish(RX, index);
    }

    /// Queues a packet without running the device.
    pub(super) fn queue(&mut self, packet: &Packet) {
        let bytes = [packet.header(), packet.data.clone()].concat();
        self.queue_bytes(&bytes, &[bytes.len()]);
    }

    /// Queues bytes as one chain of readable buffers of these lengths; the last may lie about its length.
    pub(super) fn queue_bytes(&mut self, bytes: &[u8], cuts: &[usize]) {
        let slot = self.tx_next % TX_COUNT;
        self.tx_next += 1;
        let mut address = TX_BUFFERS + slot * TX_LEN;
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("in memory");
        let first = u16::try_from(slot * 4).expect("small");
        assert!(cuts.len() <= 4, "four descriptors a slot");
        for (index, cut) in (first..).zip(cuts) {
            let last = usize::from(index - first) + 1 == cuts.len();
            let len = u32::try_from(*cut).expect("small");
            self.descriptor(TX, index, address, len, u16::from(!last), index + 1);
            address += u64::from(len);
        }
        self.publish(TX, first);
    }

    /// Queues a packet and runs the device.
    pub(super) fn send(&mut self, packet: &Packet) {
        self.queue(packet);
        self.run();
    }

    /// Runs the device until it rests, taking packets from it and giving the buffers back.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            let events = self.event_loop.run_ready().expect("epoll");
            if !self.collect() && events == 0 {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Runs the device until it rests, leaving what it sends where it is.
    pub(super) fn run_without_reading(&self) {
        for _ in 0..100_000 {
            if self.event_loop.run_ready().expect("epoll") == 0 {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Runs one turn of the transmit queue and nothing else.
    pub(super) fn run_tx_only(&self) {
        let mut registrar = self.event_loop.registrar(self.subscriber);
        lock(&self.device).handle(1, Ready::READABLE, &mut registrar);
    }

    /// As if a descriptor with this token were ready.
    pub(super) fn ready(&self, token: u32, ready: Ready) {
        let mut registrar = self.event_loop.registrar(self.subscriber);
        lock(&self.device).handle(token, ready, &mut registrar);
    }

    fn collect(&mut self) -> bool {
        let mut progress = false;
        for queue in [RX, TX] {
            let signals = self.signals[queue].count.load(Ordering::Relaxed);
            let ring = &mut self.rings[queue];
            if self.manner.event_indexes && signals == ring.signals_seen {
                continue;
            }
            ring.signals_seen = signals;
            loop {
                let used = self.rings[queue].used;
                // Ask to be told of the next one before looking.
                self.store(base(queue) + AVAILABLE + 4 + 2 * u64::from(SIZE), used);
                if self.load::<u16>(base(queue) + USED + 2) == used {
                    break;
                }
                let entry = base(queue) + USED + 4 + 8 * u64::from(used % SIZE);
                self.rings[queue].used = used.wrapping_add(1);
                progress = true;
                if queue == RX {
                    self.take(self.load(entry), self.load(entry + 4));
                }
            }
        }
        progress
    }

    fn take(&mut self, head: u32, len: u32) {
        let head = u16::try_from(head).expect("one of ours");
        if len > 0 {
            let mut bytes = vec![0; usize::try_from(len).expect("small")];
            let address = RX_BUFFERS + 0x1000 * u64::from(head);
            self.memory
                .read_slice(&mut bytes, GuestAddress(address))
                .expect("in memory");
            let packet = Packet::parse(&bytes);
            assert_eq!(packet.len as usize, packet.data.len(), "{packet:?}");
            assert_eq!((packet.source_cid, packet.destination_cid), (2, CID));
            self.inbox.push(packet);
        }
        self.post(head);
    }

    /// Takes everything that came.
    pub(super) fn received(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.inbox)
    }

    /// The operations of everything that came.
    pub(super) fn operations(&mut self) -> Vec<u16> {
        let packets = self.received();
        packets.iter().map(|packet| packet.operation).collect()
    }

    pub(super) fn fresh_port(&mut self) -> u32 {
        self.next_port += 1;
        self.next_port
    }

    /// Connects; the port it came from, when the device said yes.
    pub(super) fn connect(&mut self, port: u32) -> Option<u32> {
        let source = self.fresh_port();
        self.send(&Packet::new(source, port, REQUEST));
        let answer = self
            .inbox
            .iter()
            .position(|packet| packet.destination == source)
            .map(|at| self.inbox.remove(at))
            .expect("an answer");
        assert_eq!(answer.source, port);
        match answer.operation {
            RESPONSE => Some(source),
            RESET => None,
            other => panic!("answered with {other}"),
        }
    }

    /// Connects to a stream that the service offers for it.
    pub(super) fn join(&mut self, service: &Service, port: u32) -> (u32, UnixStream) {
        let stream = service.offer(port);
        (self.connect(port).expect("it was offered"), stream)
    }
}

/// The service at the other end of a link.
pub(super) struct Service {
    pub(super) link: PacketSocket,
}

impl Service {
    pub(super) fn new() -> (Self, PacketSocket) {
        let (ours, theirs) = PacketSocket::pair().expect("a pair");
        (Self { link: ours }, theirs)
    }

    /// Offers a fresh stream; returns the service's end, non-blocking.
    pub(super) fn offer(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let message = LinkMessage::Offer { port }.encode();
        self.link
            .send(&message, &[theirs.as_fd()])
            .expect("the link takes it");
        ours.set_nonblocking(true).expect("non-blocking");
        ours
    }
}

/// Everything there is to read now; the flag is the end of the stream, orderly or not.
pub(super) fn read_all(mut stream: &UnixStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let outcome = stream.read_to_end(&mut bytes);
    let ended = outcome.map_or_else(|error| error.kind() != ErrorKind::WouldBlock, |_| true);
    (bytes, ended)
}

/// Writes what fits now; returns how much.
pub(super) fn write_some(mut stream: &UnixStream, bytes: &[u8]) -> usize {
    stream.write(bytes).unwrap_or(0)
}

fn base(queue: usize) -> u64 {
    0x1_0000 * (u64::try_from(queue).expect("small") + 1)
}

/// Bytes that are not the same anywhere near.
pub(super) fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        })
        .collect()
}
