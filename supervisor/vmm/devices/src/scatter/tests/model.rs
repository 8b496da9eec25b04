//! Every descriptor graph of up to four nodes, against a walk that is written from the specification alone.
//!
//! A node says: readable or writable, the end or any next index up to one that is out of range, or an indirect table.
//! Tables are of a few shapes. That is every way in which links can go wrong, at the smallest size at which they can.

use std::sync::Arc;

use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::{BadChain, Buffers, MAX_DESCRIPTORS, View};
use crate::fake::{FakeInterrupt, INDIRECT, NEXT, WRITE};
use crate::virtio::{ActiveQueue, Memory};

const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const INDIRECT_TABLE: u64 = 0x4000;
const BUFFERS: u64 = 0x8000;

/// A descriptor as the driver writes it.
#[derive(Clone, Copy, Debug)]
struct Node {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Node {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Address and length of a buffer.
type Range = (u64, usize);

/// What a chain is: its readable and its writable buffers, in order.
type Walked = Result<(Vec<Range>, Vec<Range>), BadChain>;

/// The specification (virtio 1.2, 2.7.5): follow `next` from `head`, at most as many descriptors as a table has; a
/// descriptor for an indirect table goes on at the first of that table, once.
fn walk(table: &[Node], head: u16, indirect: &[Node]) -> Walked {
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    let (mut table, mut index, mut inside, mut steps) = (table, head, false, 0);
    loop {
        let Some(node) = table.get(usize::from(index)) else {
            return Err(BadChain::Broken);
        };
        if steps == table.len() {
            return Err(BadChain::Broken);
        }
        if node.flags & INDIRECT != 0 {
            if inside || !node.len.is_multiple_of(16) {
                return Err(BadChain::Broken);
            }
            let count = usize::try_from(node.len / 16).expect("small");
            (table, index, inside, steps) = (&indirect[..count], 0, true, 0);
            continue;
        }
        let range = (node.address, usize::try_from(node.len).expect("small"));
        if node.flags & WRITE != 0 {
            writable.push(range);
        } else if writable.is_empty() {
            readable.push(range);
        } else {
            return Err(BadChain::Order);
        }
        if node.flags & NEXT == 0 {
            return Ok((readable, writable));
        }
        index = node.next;
        steps += 1;
    }
}

/// Every node at `place` of a table of `size`; one for an indirect table says that it has `table_len` bytes.
fn nodes(place: u16, size: u16, table_len: u32) -> Vec<Node> {
    let mut nodes = Vec::new();
    for direction in [0, WRITE] {
        let buffer = Node {
            address: BUFFERS + 0x100 * u64::from(place),
            len: u32::from(place) + 1,
            flags: direction,
            next: 0,
        };
        nodes.push(buffer);
        nodes.extend((0..=size).map(|next| Node {
            flags: direction | NEXT,
            next,
            ..buffer
        }));
        let table = Node {
            address: INDIRECT_TABLE,
            len: table_len,
            flags: direction | INDIRECT,
            next: 0,
        };
        nodes.push(table);
    }
    nodes
}

/// Indirect tables, and the length that descriptors say of them.
fn tables() -> Vec<(u32, Vec<Node>)> {
    let node = |index: u16, flags, next| Node {
        address: BUFFERS + 0x1000 + 0x100 * u64::from(index),
        len: 16,
        flags,
        next,
    };
    let nested = Node {
        address: INDIRECT_TABLE,
        ..node(1, INDIRECT, 0)
    };
    vec![
        (32, vec![node(0, NEXT, 1), node(1, WRITE, 0)]),
        (32, vec![node(0, WRITE | NEXT, 1), node(1, WRITE | NEXT, 0)]),
        (32, vec![node(0, NEXT, 2), node(1, 0, 0)]),
        (32, vec![node(0, NEXT, 1), nested]),
        (16, vec![node(0, NEXT, 1), node(1, 0, 0)]),
        (24, vec![node(0, 0, 0), node(1, 0, 0)]),
        (0, vec![node(0, 0, 0)]),
    ]
}

/// A queue whose chains are loaded like a device does.
struct Loader {
    memory: Memory,
    queue: ActiveQueue,
    buffers: Buffers,
    offered: u16,
}

impl Loader {
    fn new(size: u16) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).expect("memory");
        let mut queue = Queue::new(size).expect("a power of two");
        queue
            .try_set_desc_table_address(GuestAddress(TABLE))
            .expect("aligned");
        queue
            .try_set_avail_ring_address(GuestAddress(AVAILABLE))
            .expect("aligned");
        queue
            .try_set_used_ring_address(GuestAddress(USED))
            .expect("aligned");
        queue.set_ready(true);
        let kick = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Self {
            memory: Arc::new(memory),
            queue: ActiveQueue::new(queue, kick, Arc::new(FakeInterrupt::default())),
            buffers: Buffers::default(),
            offered: 0,
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("in memory");
    }

    fn table(&self, address: u64, nodes: &[Node]) {
        let bytes: Vec<u8> = nodes.iter().flat_map(|node| node.bytes()).collect();
        self.write(address, &bytes);
    }

    fn load(&mut self, head: u16) -> Walked {
        let size = self.queue.queue.size();
        let place = AVAILABLE + 4 + 2 * u64::from(self.offered % size);
        self.write(place, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.write(AVAILABLE + 2, &self.offered.to_le_bytes());
        let chain = self.queue.pop(&self.memory).expect("good rings");
        let chain = chain.expect("one was offered");
        let result = self.buffers.load(chain, &self.memory);
        let used = self.queue.complete(&self.memory, head, 0);
        used.expect("it was in flight");
        let ranges = |view: View<'_>| view.ranges().map(|(at, len)| (at.0, len)).collect();
        result.map(|()| {
            (
                ranges(self.buffers.readable()),
                ranges(self.buffers.writable()),
            )
        })
    }
}

/// Runs every graph of a queue of `size`; returns how many there were.
fn check(size: u16) -> usize {
    let mut loader = Loader::new(size);
    let mut count = 0;
    for (table_len, indirect) in tables() {
        loader.table(INDIRECT_TABLE, &indirect);
        let choices: Vec<Vec<Node>> = (0..size)
            .map(|place| nodes(place, size, table_len))
            .collect();
        let mut picked = vec![0; usize::from(size)];
        loop {
            let graph: Vec<Node> = choices
                .iter()
                .zip(&picked)
                .map(|(nodes, pick)| nodes[*pick])
                .collect();
            loader.table(TABLE, &graph);
            // Other heads are this one with the numbers of nodes changed.
            let expected = walk(&graph, 0, &indirect);
            assert_eq!(loader.load(0), expected, "{graph:?} {indirect:?}");
            count += 1;
            if !advance(&mut picked, &choices) {
                break;
            }
        }
    }
    count
}

/// The next way to pick one of each; false after the last.
fn advance(picked: &mut [usize], choices: &[Vec<Node>]) -> bool {
    for (pick, nodes) in picked.iter_mut().zip(choices) {
        *pick += 1;
        if *pick < nodes.len() {
            return true;
        }
        *pick = 0;
    }
    false
}

#[test]
fn empty_buffers_count() {
    let mut loader = Loader::new(2);
    for (count, expected) in [
        (MAX_DESCRIPTORS, Ok((Vec::new(), Vec::new()))),
        (MAX_DESCRIPTORS + 1, Err(BadChain::TooLong)),
    ] {
        let nodes: Vec<Node> = (1..=count)
            .map(|next| Node {
                address: BUFFERS,
                len: 0,
                flags: if next < count { NEXT } else { 0 },
                next: u16::try_from(next).expect("few"),
            })
            .collect();
        loader.table(INDIRECT_TABLE, &nodes);
        let head = Node {
            address: INDIRECT_TABLE,
            len: u32::try_from(16 * count).expect("small"),
            flags: INDIRECT,
            next: 0,
        };
        loader.table(TABLE, &[head]);
        assert_eq!(loader.load(0), expected, "{count}");
    }
}

#[test]
fn every_small_graph_is_walked_as_specified() {
    let counts = [2, 4].map(check);
    assert_eq!(counts, [7 * 10_usize.pow(2), 7 * 14_usize.pow(4)]);
}
