//! Seeds of a guest's machine: queues with good requests, and a driver that finds and starts devices.

use casemate_fuzz::driver::{AVAILABLE, ENTRIES, EVENT_INDEX, OWN, QUEUE_STRIDE};
use casemate_fuzz::machine::Space;

use crate::Seed;

/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// An input of a queue target.
struct Image(Vec<u8>);

impl Image {
    fn new(flags: u8) -> Self {
        Self(vec![flags])
    }

    fn put(mut self, address: u64, bytes: &[u8]) -> Self {
        let start = usize::try_from(address).expect("small") + 1;
        let end = start + bytes.len();
        self.0.resize(self.0.len().max(end), 0);
        self.0[start..end].copy_from_slice(bytes);
        self
    }

    fn table(self, address: u64, descriptors: &[Descriptor]) -> Self {
        let bytes = |(address, len, flags, next): &Descriptor| {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            bytes
        };
        let table: Vec<u8> = descriptors.iter().flat_map(bytes).collect();
        self.put(address, &table)
    }

    /// A queue with these descriptors and available heads.
    fn queue(self, index: u64, descriptors: &[Descriptor], heads: &[u16]) -> Self {
        let base = QUEUE_STRIDE * index;
        let count = u16::try_from(heads.len()).expect("small");
        assert!(count <= ENTRIES);
        let ring = [&[0, count], heads].concat();
        let ring: Vec<u8> = ring.into_iter().flat_map(u16::to_le_bytes).collect();
        self.table(base, descriptors).put(base + AVAILABLE, &ring)
    }
}

pub(crate) fn all() -> Vec<Seed> {
    let mut seeds = vec![
        ("console_queue", "print", console()),
        ("rng_queue", "fill", rng()),
        ("blk_queue", "read_write", blk(EVENT_INDEX, 0, 1)),
        ("blk_queue", "write_read_only", blk(OWN, 1, 8)),
        ("blk_queue", "flush_identify", blk(0x20, 4, 8)),
        ("blk_queue", "discard", ranges(11)),
        ("blk_queue", "write_zeroes", ranges(13)),
        ("blk_queue", "indirect", indirect()),
        (
            "vsock_queue",
            "connect",
            vsock(0x10, &[(1, 0, 0, b""), (5, 0, 16, b"from the guest..")]),
        ),
        (
            "vsock_queue",
            "shutdown",
            vsock(OWN | 0x10, &[(1, 0, 0, b""), (4, 3, 0, b"")]),
        ),
        (
            "vsock_queue",
            "credit",
            vsock(
                EVENT_INDEX,
                &[(1, 0, 0, b""), (7, 0, 0, b""), (6, 0, 0, b"")],
            ),
        ),
        (
            "vsock_queue",
            "refused",
            vsock(0, &[(5, 0, 4, b"lost"), (3, 0, 0, b"")]),
        ),
        ("msix", "send", msix()),
        ("pci_config", "scan", scan()),
    ];
    for (name, function) in [("blk", 1), ("rng", 2), ("console", 3), ("vsock", 4)] {
        seeds.push(("pci_config", name, start(function)));
    }
    seeds
}

fn console() -> Vec<u8> {
    let chain = [(0x400, 5, NEXT, 1), (0x410, 6, 0, 0)];
    Image::new(EVENT_INDEX)
        .queue(0, &[(0x400, 16, WRITE, 0)], &[0])
        .queue(1, &chain, &[0, 1])
        .put(0x400, b"hello")
        .put(0x410, b"world\n")
        .0
}

fn rng() -> Vec<u8> {
    let chain = [(0x400, 64, WRITE | NEXT, 1), (0x500, 32, WRITE, 0)];
    Image::new(0x10).queue(0, &chain, &[0, 1]).0
}

/// A request's header and the chain around it.
fn header(operation: u32, sector: u64) -> Vec<u8> {
    let words = [operation.to_le_bytes(), [0; 4]].concat();
    [words, sector.to_le_bytes().to_vec()].concat()
}

/// Two requests: one of data, to or from the guest, and one of another kind.
fn blk(flags: u8, first: u32, second: u32) -> Vec<u8> {
    let data = |operation| if operation == 1 { 0 } else { WRITE };
    Image::new(flags)
        .queue(
            0,
            &[
                (0x300, 16, NEXT, 1),
                (0x400, 512, NEXT | data(first), 2),
                (0x340, 1, WRITE, 0),
                (0x310, 16, NEXT, 4),
                (0x400, 512, NEXT | data(second), 5),
                (0x341, 1, WRITE, 0),
            ],
            &[0, 3],
        )
        .put(0x300, &header(first, 2))
        .put(0x310, &header(second, 127))
        .0
}

fn ranges(operation: u32) -> Vec<u8> {
    let range = [3u32, 0, 2, 1].map(u32::to_le_bytes).concat();
    let chain = [
        (0x300, 16, NEXT, 1),
        (0x320, 16, NEXT, 2),
        (0x340, 1, WRITE, 0),
    ];
    Image::new(0)
        .queue(0, &chain, &[0])
        .put(0x300, &header(operation, 0))
        .put(0x320, &range)
        .0
}

fn indirect() -> Vec<u8> {
    let chain = [
        (0x300, 16, NEXT, 1),
        (0x400, 512, WRITE | NEXT, 2),
        (0x340, 1, WRITE, 0),
    ];
    Image::new(0)
        .queue(0, &[(0x200, 48, INDIRECT, 0)], &[0])
        .table(0x200, &chain)
        .put(0x300, &header(0, 1))
        .0
}

/// Packets from port 1000 to port 512: operation, flags, length, data. With buffers for the answers.
fn vsock(flags: u8, packets: &[(u16, u32, u32, &[u8])]) -> Vec<u8> {
    let (mut image, mut table, mut heads) = (Image::new(flags), Vec::new(), Vec::new());
    let places = (0x600..).step_by(0x40);
    for ((head, place), (operation, flags, len, data)) in (0..).zip(places).zip(packets) {
        let mut packet = [3u64, 2].map(u64::to_le_bytes).concat();
        packet.extend([1000u32, 512, *len].map(u32::to_le_bytes).concat());
        packet.extend([1, *operation].map(u16::to_le_bytes).concat());
        packet.extend([*flags, 0x1_0000, 0].map(u32::to_le_bytes).concat());
        packet.extend_from_slice(data);
        table.push((place, 44 + len, 0, 0));
        heads.push(head);
        image = image.put(place, &packet);
    }
    let buffers: Vec<Descriptor> = (0x800..)
        .step_by(0x100)
        .map(|place| (place, 0x100, WRITE, 0))
        .take(8)
        .collect();
    image
        .queue(0, &buffers, &[0, 1, 2, 3, 4, 5, 6, 7])
        .queue(1, &table, &heads)
        .0
}

/// A step of the MSI-X target: what, width as a power of two, offset, value.
fn vector_step(what: u8, width: u8, offset: u16, value: u64) -> Vec<u8> {
    let place = offset.to_le_bytes();
    [&[what, width][..], &place, &value.to_le_bytes()].concat()
}

fn msix() -> Vec<u8> {
    [
        vec![3],
        vector_step(4, 0, 1, 0),
        vector_step(0, 0, 0xc000, 0),
        vector_step(1, 3, 16, 0xfee0_0000),
        vector_step(1, 3, 24, 0x41),
        vector_step(4, 0, 1, 0),
        vector_step(3, 2, 0, 0),
        vector_step(0, 0, 0x8000, 0),
        vector_step(1, 2, 28, 1),
        vector_step(4, 0, 1, 0),
        vector_step(1, 2, 28, 0),
        vector_step(2, 2, 16, 0),
    ]
    .concat()
}

/// A step of the machine; the width is a power of two.
fn step(space: Space, write: bool, width: u8, function: u8, place: u16, value: u64) -> Vec<u8> {
    let what = space as u8 | u8::from(write) << 3 | width << 4;
    let place = place.to_le_bytes();
    [&[what, function][..], &place, &value.to_le_bytes()].concat()
}

/// Looks at every function, both ways, and moves a BAR into the lower window.
fn scan() -> Vec<u8> {
    let mut steps = Vec::new();
    for device in 0..6u8 {
        let address = 0x8000_0000 | u64::from(device) << 11;
        steps.push(step(Space::Ports, true, 2, 0, 0, address));
        steps.push(step(Space::Ports, false, 2, 0, 4, 0));
        for register in [0x08, 0x10, 0x34] {
            steps.push(step(Space::Ecam, false, 2, device << 3, register, 0));
        }
        steps.push(step(Space::Ecam, true, 2, device << 3, 0x10, 0xffff_ffff));
    }
    steps.push(step(Space::Ecam, true, 2, 16, 0x10, 0xc000_0000));
    steps.push(step(Space::Ecam, true, 2, 16, 0x14, 0));
    steps.push(step(Space::Ecam, true, 1, 16, 4, 6));
    steps.push(step(Space::LowWindow, false, 0, 0, 0, 0));
    steps.push(step(Space::Anywhere, true, 0, 0, 0, 0xc000_0014));
    steps.push(step(Space::Serial, true, 0, 0, 0, u64::from(b'x')));
    steps.concat()
}

/// Starts a virtio function: MSI-X, features, its queues, and one buffer in the last of them.
fn start(function: u8) -> Vec<u8> {
    let bar = |width, place, value| step(Space::Bar, true, width, function - 1, place, value);
    let ecam = |width, place, value| step(Space::Ecam, true, width, function << 3, place, value);
    let memory = |width, place, value| step(Space::Memory, true, width, 0, place, value);
    let queues = match function {
        1 | 2 => 1,
        3 => 2,
        _ => 3,
    };
    // The MSI-X capability is the first one.
    let mut steps = vec![ecam(1, 4, 6), ecam(1, 0x42, 0x8000)];
    for (place, value) in [(0x4010, 0xfee0_0000), (0x4018, 0x41)] {
        steps.push(bar(3, place, value));
    }
    for status in [1, 3] {
        steps.push(bar(0, 0x14, status));
    }
    steps.extend([bar(2, 0x08, 1), bar(2, 0x0c, 1), bar(0, 0x14, 11)]);
    for queue in 0..queues {
        let base = 0x1000 + 0x1000 * queue;
        steps.extend([bar(1, 0x16, queue), bar(1, 0x18, 16), bar(1, 0x1a, 1)]);
        for (place, value) in [(0x20, base), (0x28, base + 0x400), (0x30, base + 0x800)] {
            steps.push(bar(3, place, value));
        }
        steps.push(bar(1, 0x1c, 1));
    }
    steps.push(bar(0, 0x14, 15));
    let last = u16::try_from(queues - 1).expect("small");
    let base = 0x1000 + 0x1000 * last;
    let flags = if function == 2 { u64::from(WRITE) } else { 0 };
    steps.push(memory(3, base, 0x8000));
    steps.push(memory(3, base + 8, 64 | flags << 32));
    steps.push(memory(1, base + 0x402, 1));
    steps.push(bar(1, 0x3000 + 4 * last, u64::from(last)));
    steps.push(step(Space::Work, false, 0, 0, 0, 0));
    steps.push(step(Space::Bar, false, 0, function - 1, 0x1000, 0));
    steps.push(step(Space::Bar, false, 0, function - 1, 0x14, 0));
    steps.push(bar(0, 0x14, 0));
    steps.concat()
}
