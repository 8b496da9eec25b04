//! net over a cable: frames of a usual size and large ones that the receiver cuts; beside packets on a socket pair.

use std::os::fd::OwnedFd;

use casemate_devices::net::{Net, Wire};
use casemate_vmm_control::MacAddress;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use crate::driver::{BUFFERS, Driver, WRITE};

const RX: usize = 0;
const TX: usize = 1;
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 8];
const SLOT: u64 = 0x2_0000;
/// Buffers for receiving; each takes any frame.
const INCOMING: u16 = 64;
const INCOMING_AT: u64 = BUFFERS + 0x80_0000;

/// A size of frames, and how many of them a socket's buffer takes.
struct Load {
    name: &'static str,
    frame: usize,
    count: u16,
}

const LOADS: [Load; 2] = [
    Load {
        name: "1514 B",
        frame: 1514,
        count: 32,
    },
    Load {
        name: "64 KiB",
        frame: 65_226,
        count: 2,
    },
];

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets")
}

/// A header and a frame; one that is larger than a wire takes is left to be cut.
fn packet(source: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    if len > 1514 {
        bytes[..2].copy_from_slice(&[1, 1]);
        for (place, field) in bytes[2..10].chunks_exact_mut(2).zip([54_u16, 1448, 34, 16]) {
            place.copy_from_slice(&field.to_le_bytes());
        }
    }
    bytes.extend([OTHER, source].concat());
    bytes.extend([8, 0]);
    bytes.resize(12 + len, 1);
    // The length of the TCP header.
    bytes[12 + 34 + 12] = 5 << 4;
    bytes
}

fn on_cable() -> (Driver, OwnedFd) {
    let (near, far) = pair();
    let mac = MacAddress::new(OWN).expect("unicast");
    (Driver::new(Net::new(mac, Wire::cable(near))), far)
}

fn drain(far: &OwnedFd, into: &mut [u8], count: u16) {
    for _ in 0..count {
        rustix::net::recv(far, &mut *into, RecvFlags::DONTWAIT).expect("it was sent");
    }
}

fn group<'a>(
    criterion: &'a mut Criterion,
    what: &str,
    load: &Load,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(format!("net {what} {}", load.name));
    let bytes = load.frame * usize::from(load.count);
    group.throughput(Throughput::Bytes(u64::try_from(bytes).expect("small")));
    group
}

pub(crate) fn bench(criterion: &mut Criterion) {
    for load in &LOADS {
        send(criterion, load);
        receive(criterion, load);
    }
}

fn send(criterion: &mut Criterion, load: &Load) {
    let mut group = group(criterion, "send", load);
    let mut into = vec![0; 0x2_0000];
    let bytes = packet(OWN, load.frame);
    let (mut driver, far) = on_cable();
    for slot in 0..load.count {
        let place = BUFFERS + SLOT * u64::from(slot);
        driver.write(place, &bytes);
        let len = u32::try_from(bytes.len()).expect("small");
        driver.describe(TX, slot, &[(place, len, 0, 0)]);
    }
    group.bench_function("device", |bencher| {
        bencher.iter(|| {
            driver.offer(TX, 0..load.count);
            driver.kick(TX);
            drain(&far, &mut into, load.count);
        });
    });
    let (near, far) = pair();
    group.bench_function("socket pair", |bencher| {
        bencher.iter(|| {
            for _ in 0..load.count {
                rustix::net::send(&near, &bytes, SendFlags::DONTWAIT).expect("room");
            }
            drain(&far, &mut into, load.count);
        });
    });
    group.finish();
}

fn receive(criterion: &mut Criterion, load: &Load) {
    let mut group = group(criterion, "receive", load);
    let bytes = packet(OTHER, load.frame);
    let (mut driver, far) = on_cable();
    for slot in 0..INCOMING {
        let place = INCOMING_AT + SLOT * u64::from(slot);
        let len = u32::try_from(SLOT).expect("small");
        driver.describe(RX, slot, &[(place, len, WRITE, 0)]);
    }
    driver.offer(RX, 0..INCOMING);
    driver.kick(RX);
    let mut next = 0;
    group.bench_function("device", |bencher| {
        bencher.iter(|| {
            for _ in 0..load.count {
                rustix::net::send(&far, &bytes, SendFlags::DONTWAIT).expect("room");
            }
            driver.work();
            assert_eq!(driver.waiting(RX), INCOMING - load.count);
            driver.offer(RX, (0..load.count).map(|at| (next + at) % INCOMING));
            next = (next + load.count) % INCOMING;
        });
    });
    group.finish();
}
