//! A guest on a wire whose other end the test holds.

mod incoming;
mod outgoing;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use casemate_vmm_control::MacAddress;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use vm_memory::{Bytes, GuestAddress};

use super::config::feature;
use super::{Counters, Loss, Net, Wire};
use crate::fake::{Activated, Descriptor, NEXT, WRITE};
use crate::virtio::VirtioDevice as _;

const RX: usize = 0;
const TX: usize = 1;
const FRAME_AT: u64 = 0x2_0000;
const BUFFERS_AT: u64 = 0x6_0000;
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 8];

struct Guest {
    machine: Activated,
    counters: Arc<Counters>,
    /// The other end of the wire.
    far: OwnedFd,
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK, None)
        .expect("sockets")
}

impl Guest {
    /// On a cable, with every feature but those of `without`.
    fn without(without: u64) -> Self {
        let (near, far) = pair(SocketType::SEQPACKET);
        Self::on(Wire::cable(near), far, without)
    }

    fn on(wire: Wire, far: OwnedFd, without: u64) -> Self {
        let mac = MacAddress::new(OWN).expect("unicast");
        let device = Net::new(mac, wire);
        let counters = device.counters();
        let features = device.features() & !without;
        let machine = Activated::with_features(Arc::new(Mutex::new(device)), features);
        machine.kick(RX);
        Self {
            machine,
            counters,
            far,
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.machine
            .memory
            .write_slice(bytes, GuestAddress(at))
            .expect("in memory");
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.machine
            .memory
            .read_slice(&mut bytes, GuestAddress(at))
            .expect("in memory");
        bytes
    }

    /// Queues a header and a frame in one buffer and kicks.
    fn transmit(&self, header: [u8; 12], frame: &[u8]) {
        let bytes = [&header, frame].concat();
        self.write(FRAME_AT, &bytes);
        let len = u32::try_from(bytes.len()).expect("small");
        self.machine.offer(TX, &[(FRAME_AT, len, 0, 0)], &[0]);
        self.machine.kick(TX);
    }

    /// The next packet at the other end.
    fn arrived(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 0x2_0000];
        let (len, _) = rustix::net::recv(&self.far, &mut bytes, RecvFlags::DONTWAIT).ok()?;
        bytes.truncate(len);
        Some(bytes)
    }

    /// Sends bytes from the other end and lets the device see them.
    fn incoming(&self, bytes: &[u8]) {
        let sent = rustix::net::send(&self.far, bytes, SendFlags::DONTWAIT).expect("room");
        assert_eq!(sent, bytes.len());
        self.machine.rest();
    }

    fn lost(&self) -> Vec<(Loss, u64)> {
        use Loss::*;
        [
            BadChain,
            Length,
            ForeignSource,
            Vlan,
            Header,
            Unplugged,
            Incoming,
            Undeliverable,
            BadBuffer,
        ]
        .into_iter()
        .map(|why| (why, self.counters.lost(why)))
        .filter(|(_, count)| *count > 0)
        .collect()
    }
}

/// An Ethernet frame of `len` bytes from `source`.
fn frame(source: [u8; 6], kind: u16, len: usize) -> Vec<u8> {
    let mut bytes = [OTHER.as_slice(), &source, &kind.to_be_bytes()].concat();
    bytes.extend((bytes.len()..len).map(|at| u8::try_from(at % 251).expect("below 251")));
    bytes.truncate(len);
    bytes
}

/// A frame with a TCP header of 20 bytes after an IP header of 20 (`0x0800`) or 40 bytes.
fn tcp(kind: u16, len: usize) -> Vec<u8> {
    let mut bytes = frame(OWN, kind, len);
    bytes[tcp_start(kind) + 12] = 5 << 4;
    bytes
}

fn tcp_start(kind: u16) -> usize {
    if kind == 0x0800 { 34 } else { 54 }
}

/// A header from its fields: flags, gso type, hdr_len, gso_size, csum_start, csum_offset.
fn header(flags: u8, gso: u8, fields: [u16; 4]) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = flags;
    bytes[1] = gso;
    for (place, field) in bytes[2..10].chunks_exact_mut(2).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

const PLAIN: [u8; 12] = [0; 12];
