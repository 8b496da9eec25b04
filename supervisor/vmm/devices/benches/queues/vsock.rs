//! vsock: a guest that sends to a service in packets of 64 KiB, and one that receives; beside a socket pair without a VM.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use casemate_devices::vsock::{GuestCid, Vsock};
use casemate_link::PacketSocket;
use casemate_vmm_control::{LinkKind, LinkMessage};
use criterion::{Criterion, Throughput};

use crate::driver::{BUFFERS, Driver, WRITE};

const RX: usize = 0;
const TX: usize = 1;
const PAYLOAD: usize = 64 << 10;
const HEADER: usize = 44;
/// Packets of one kick; what they carry fits the buffers of a socket and of the connection.
const PACKETS: u16 = 2;
const PORT: u32 = 512;
const SLOT: u64 = 0x2_0000;
const ANSWERS: u64 = BUFFERS + 0x40_0000;

/// A header of the guest: operation, bytes of data, and what it has taken so far of what it was sent.
fn header(operation: u16, len: u32, forwarded: u32) -> Vec<u8> {
    let mut bytes = [3_u64, 2].map(u64::to_le_bytes).concat();
    bytes.extend([1000_u32, PORT, len].map(u32::to_le_bytes).concat());
    bytes.extend([1, operation].map(u16::to_le_bytes).concat());
    bytes.extend([0, 1_u32 << 20, forwarded].map(u32::to_le_bytes).concat());
    bytes
}

/// A connection of a guest to a service: its driver and the service's end.
struct Joined {
    driver: Driver,
    service: UnixStream,
    _link: PacketSocket,
}

impl Joined {
    fn new() -> Self {
        let (link, theirs) = PacketSocket::pair().expect("sockets");
        let (service, offered) = UnixStream::pair().expect("sockets");
        let message = LinkMessage::Offer { port: PORT }.encode();
        link.send(&message, &[offered.as_fd()]).expect("room");
        let cid = GuestCid::new(3).expect("a guest's");
        let device = Vsock::new(cid, vec![(LinkKind::Rpc, theirs)]).expect("eventfd");
        let mut driver = Driver::new(device);
        let len = u32::try_from(SLOT).expect("small");
        for slot in 0..16 {
            let place = ANSWERS + SLOT * u64::from(slot);
            driver.describe(RX, slot, &[(place, len, WRITE, 0)]);
        }
        driver.offer(RX, 0..16);
        driver.kick(RX);
        let mut joined = Self {
            driver,
            service,
            _link: link,
        };
        joined.control(1, 0);
        joined
    }

    /// Sends a packet without data.
    fn control(&mut self, operation: u16, forwarded: u32) {
        self.driver.write(BUFFERS, &header(operation, 0, forwarded));
        self.driver.describe(TX, 0, &[(BUFFERS, 44, 0, 0)]);
        self.driver.offer(TX, [0]);
        self.driver.kick(TX);
    }

    /// Gives back the buffers that the device has used.
    fn replenish(&mut self) {
        let used = 16 - self.driver.waiting(RX);
        if used > 0 {
            // In the order in which they were given, which is how they are used.
            let first = self.driver.offered(RX).wrapping_sub(16);
            let heads = (0..used).map(|at| first.wrapping_add(at) % 16);
            self.driver.offer(RX, heads);
            self.driver.kick(RX);
        }
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    send(criterion);
    receive(criterion);
}

fn send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vsock send 64 KiB");
    let bytes = PAYLOAD * usize::from(PACKETS);
    group.throughput(Throughput::Bytes(u64::try_from(bytes).expect("small")));
    let mut taken = vec![0; bytes];

    let mut joined = Joined::new();
    let len = u32::try_from(PAYLOAD).expect("small");
    for slot in 0..PACKETS {
        let place = BUFFERS + SLOT * u64::from(slot);
        joined.driver.write(place, &header(5, len, 0));
        let whole = len + u32::try_from(HEADER).expect("small");
        joined.driver.describe(TX, slot, &[(place, whole, 0, 0)]);
    }
    group.bench_function("device", |bencher| {
        bencher.iter(|| {
            joined.driver.offer(TX, 0..PACKETS);
            joined.driver.kick(TX);
            joined.service.read_exact(&mut taken).expect("it was sent");
            joined.driver.work();
            joined.replenish();
        });
    });

    let (mut near, mut far) = UnixStream::pair().expect("sockets");
    let data = vec![1; PAYLOAD];
    group.bench_function("socket pair", |bencher| {
        bencher.iter(|| {
            for _ in 0..PACKETS {
                near.write_all(&data).expect("room");
            }
            far.read_exact(&mut taken).expect("it was sent");
        });
    });
    group.finish();
}

fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vsock receive 64 KiB");
    group.throughput(Throughput::Bytes(u64::try_from(PAYLOAD).expect("small")));
    let data = vec![1; PAYLOAD];
    let mut joined = Joined::new();
    let mut forwarded = 0_u32;
    group.bench_function("device", |bencher| {
        bencher.iter(|| {
            joined.service.write_all(&data).expect("room");
            joined.driver.work();
            forwarded = forwarded.wrapping_add(u32::try_from(PAYLOAD).expect("small"));
            joined.control(6, forwarded);
            joined.replenish();
        });
    });
    group.finish();
}
