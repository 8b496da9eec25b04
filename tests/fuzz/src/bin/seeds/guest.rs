//! Seeds of a guest's machine: queues with good requests, and a driver that finds and starts devices.

use casemate_fuzz::driver::{AVAILABLE, ENTRIES, EVENT_INDEX, FEATURES, OWN, QUEUE_STRIDE};
use casemate_fuzz::machine::{self, Space};
use casemate_fuzz::queue::Step;
use casemate_fuzz::{snapshot, working_set};

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
        ("console", "print", console()),
        ("rng", "fill", rng()),
        ("snd", "play", snd(0, 0x10)),
        ("snd", "record", snd(1, 0x20)),
        ("snd", "record_granted", snd(1, OWN | 0x20)),
        ("blk_req", "read_write", blk(EVENT_INDEX, 0, 1)),
        ("blk_req", "write_read_only", blk(OWN, 1, 8)),
        ("blk_req", "flush_identify", blk(0x20, 4, 8)),
        ("blk_req", "discard", ranges(11)),
        ("blk_req", "write_zeroes", ranges(13)),
        ("blk_req", "indirect", indirect()),
        (
            "vsock_pkt",
            "connect",
            vsock(0x10, &[(1, 0, 0, b""), (5, 0, 16, b"from the guest..")]),
        ),
        (
            "vsock_pkt",
            "shutdown",
            vsock(OWN | 0x10, &[(1, 0, 0, b""), (4, 3, 0, b"")]),
        ),
        (
            "vsock_pkt",
            "credit",
            vsock(
                EVENT_INDEX,
                &[(1, 0, 0, b""), (7, 0, 0, b""), (6, 0, 0, b"")],
            ),
        ),
        (
            "vsock_pkt",
            "refused",
            vsock(0, &[(5, 0, 4, b"lost"), (3, 0, 0, b"")]),
        ),
        ("net_tx", "plain", net(0, [0; 12], 60)),
        ("net_tx", "segments", net(FEATURES | 0x10, SEGMENTS, 400)),
        ("net_tx", "merged", net(FEATURES | EVENT_INDEX, [0; 12], 80)),
        ("balloon", "inflate", balloon(0)),
        ("balloon", "report", balloon(FEATURES)),
        ("balloon", "hint", balloon(FEATURES | OWN | 0x10)),
        ("virtqueue_ops", "answers", operations()),
        ("msix", "send", msix()),
        ("pci_cfg", "scan", scan()),
    ];
    for (name, function) in [("blk", 1), ("rng", 2), ("console", 3), ("vsock", 4)] {
        seeds.push(("pci_cfg", name, start(function)));
        seeds.push(("device_state", name, machine::saved(&start(function))));
    }
    seeds.push(("device_state", "new", machine::saved(&[])));
    seeds.push(("snapshot_hdr", "sealed", snapshot::seed()));
    seeds.push(("working_set", "pages", working_set::seed()));
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

/// A header that leaves a checksum and cutting to the receiver.
const SEGMENTS: [u8; 12] = [1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0];

/// A frame of the guest's own in two buffers, and buffers for what comes.
fn net(flags: u8, header: [u8; 12], len: usize) -> Vec<u8> {
    let mut frame = [[2, 0, 0, 0, 0, 8], [2, 0, 0, 0, 0, 7]].concat();
    frame.extend([8, 0]);
    frame.resize(len, 0);
    // The length of the TCP header.
    frame[46] = 5 << 4;
    let len = u32::try_from(len).expect("small");
    let buffers: Vec<Descriptor> = (0..8)
        .map(|slot| (0x1000 + 0x800 * slot, 0x800, WRITE, 0))
        .collect();
    Image::new(flags)
        .queue(0, &buffers, &[0, 1, 2, 3, 4, 5, 6, 7])
        .queue(1, &[(0x600, 12, NEXT, 1), (0x700, len, 0, 0)], &[0])
        .put(0x600, &header)
        .put(0x700, &frame)
        .0
}

/// A stream that is set, prepared and started, and messages for it: two at once, and more in the second round. Then
/// it is stopped and released.
fn snd(stream: u32, flags: u8) -> Vec<u8> {
    let set: &[u32] = &[0x101, stream, 2048, 512, 0, 0x0007_0502];
    let rest = [0x102, 0x104, 0x105, 0x103].map(|code| [code, stream]);
    let mut requests = vec![set, &[0x100, 0, 1, 32]];
    requests.extend(rest.iter().map(<[u32; 2]>::as_slice));
    // In the first round up to the start, in the second what follows.
    let order = [1, 0, 2, 3, 4, 5];
    let (mut image, mut table) = (Image::new(flags), Vec::new());
    for (place, request) in (0x900..).step_by(0x20).zip(order.map(|at| requests[at])) {
        let bytes: Vec<u8> = request.iter().flat_map(|word| word.to_le_bytes()).collect();
        let len = u32::try_from(bytes.len()).expect("small");
        let next = u16::try_from(table.len() + 1).expect("small");
        table.push((place, len, NEXT, next));
        table.push((0xa00, 0x40, WRITE, 0));
        image = image.put(place, &bytes);
    }
    // The heads after the first four are for the second round.
    let ring: Vec<u8> = [0, 4, 0, 2, 4, 6, 8, 10]
        .into_iter()
        .flat_map(u16::to_le_bytes)
        .collect();
    let kind = if stream == 0 { 0 } else { WRITE };
    let message = |at: u16| {
        [
            (0xb00, 4, NEXT, at + 1),
            (0xd80, 512, NEXT | kind, at + 2),
            (0xc00, 8, WRITE, 0),
        ]
    };
    let messages = [0, 3, 6, 9].map(message).concat();
    let queue = if stream == 0 { 2 } else { 3 };
    let samples: Vec<u8> = (0..=255).cycle().take(512).collect();
    image
        .table(0, &table)
        .put(AVAILABLE, &ring)
        .queue(1, &[(0xd00, 8, WRITE, 0)], &[0])
        .queue(queue, &messages, &[0, 3])
        .put(QUEUE_STRIDE * queue + AVAILABLE + 8, &[6, 0, 9, 0])
        .put(0xb00, &stream.to_le_bytes())
        .put(0xd80, &samples)
        .0
}

/// Pages given by number, taken back, hinted at and reported.
fn balloon(flags: u8) -> Vec<u8> {
    let list = [8_u32, 9, 3].map(u32::to_le_bytes).concat();
    let numbers = [(0x900, 12, 0, 0)];
    let pages = [
        (0x4000, 0x2000, WRITE | NEXT, 1),
        (0x8000, 0x1000, WRITE, 0),
    ];
    Image::new(flags)
        .queue(0, &numbers, &[0])
        .queue(1, &numbers, &[0])
        .queue(2, &[(0x910, 4, 0, 0), pages[1]], &[0, 1])
        .queue(3, &pages, &[0])
        .put(0x900, &list)
        .put(0x910, &2_u32.to_le_bytes())
        .0
}

/// Three chains that are taken, put back, and given back in another order.
fn operations() -> Vec<u8> {
    let step = |what: Step, number: u8, place: u16, value: u32| {
        let place = place.to_le_bytes();
        [&[what as u8, number][..], &place, &value.to_le_bytes()].concat()
    };
    let mut steps = vec![vec![1]];
    for head in 0..3_u8 {
        let entry = u16::from(head) * 16;
        steps.push(step(Step::Write, 3, entry, 0x1000));
        steps.push(step(Step::Write, 3, entry + 8, 0x40));
        steps.push(step(Step::Offer, 0, 0, head.into()));
    }
    steps.push(step(Step::Pop, 0, 0, 0));
    steps.push(step(Step::PutBack, 0, 0, 0));
    steps.extend((0..3).map(|_| step(Step::Pop, 0, 0, 0)));
    steps.push(step(Step::Complete, 1, 0, 16));
    steps.push(step(Step::Notify, 0, 0, 0));
    steps.push(step(Step::CompleteTogether, 0, 0, 0));
    steps.push(step(Step::Notify, 0, 0, 0));
    steps.concat()
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
    steps.push(step(Space::Ecam, true, 2, 16, 0x18, 0xd040));
    steps.push(step(Space::Ecam, true, 1, 16, 4, 7));
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
    let mut steps = vec![ecam(1, 4, 7), ecam(1, 0x42, 0x8000)];
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
    let doorbells = 128 + function - 1;
    steps.push(step(Space::Ports, true, 1, doorbells, 4 * last, last.into()));
    steps.push(step(Space::Work, false, 0, 0, 0, 0));
    steps.push(step(Space::Bar, false, 0, function - 1, 0x1000, 0));
    steps.push(step(Space::Bar, false, 0, function - 1, 0x14, 0));
    steps.push(bar(0, 0x14, 0));
    steps.concat()
}
