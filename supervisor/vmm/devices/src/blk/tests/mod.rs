//! A driver for the block device, and the tables that it runs.

mod chains;
mod disks;
mod requests;
mod workers;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::{Access, Block, Disk, RawDisk, SECTOR, Serial};
use crate::event_loop::EventLoop;
use crate::fake::{Activated, Descriptor, INDIRECT, NEXT, WRITE};

pub(super) const OK: u8 = 0;
pub(super) const IO_ERROR: u8 = 1;
pub(super) const UNSUPPORTED: u8 = 2;
/// What the status byte holds before a request.
pub(super) const UNANSWERED: u8 = 0xee;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;

/// Where the driver keeps things.
pub(super) const HEADER_AT: u64 = 0x8000;
pub(super) const STATUS_AT: u64 = 0x8100;
pub(super) const TABLE_AT: u64 = 0x9000;
pub(super) const OUT_AT: u64 = 0x2_0000;
pub(super) const IN_AT: u64 = 0x6_0000;

/// Sectors of the disk of the tables.
pub(super) const SECTORS: u64 = 64;

/// Bytes that differ from sector to sector and from byte to byte.
pub(super) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from((at * 7 + at / 512 * 13 + seed) % 251).expect("below 251"))
        .collect()
}

/// A temporary file with these bytes.
pub(super) fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("a temporary file");
    file.write_all_at(bytes, 0).expect("it takes bytes");
    file
}

pub(super) fn contents(file: &File) -> Vec<u8> {
    let len = usize::try_from(file.metadata().expect("metadata").len()).expect("small");
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).expect("all of it");
    bytes
}

pub(super) struct Answer {
    pub(super) status: u8,
    pub(super) used: u32,
    pub(super) data: Vec<u8>,
}

pub(super) struct Guest {
    pub(super) machine: Activated,
    answered: usize,
}

impl Guest {
    pub(super) fn new(disk: Box<dyn Disk>, access: Access) -> Self {
        let serial = Serial::new("private").expect("a serial");
        let event_loop = EventLoop::new().expect("epoll");
        let block = Block::new(disk, serial, access, vec![event_loop.clone()]);
        Self {
            machine: Activated::on(event_loop, Arc::new(Mutex::new(block)), 0),
            answered: 0,
        }
    }

    pub(super) fn raw(file: &File, access: Access) -> Self {
        let copy = file.try_clone().expect("a descriptor");
        let disk = RawDisk::open(copy.into(), access).expect("a disk");
        Self::new(Box::new(disk), access)
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        let memory = &self.machine.memory;
        memory
            .write_slice(bytes, GuestAddress(address))
            .expect("in memory");
    }

    pub(super) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let memory = &self.machine.memory;
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("in memory");
        bytes
    }

    pub(super) fn put_header(&self, operation: u32, sector: u64) {
        let mut header = Vec::new();
        header.extend(operation.to_le_bytes());
        header.extend(0_u32.to_le_bytes());
        header.extend(sector.to_le_bytes());
        self.write(HEADER_AT, &header);
        self.write(STATUS_AT, &[UNANSWERED]);
    }

    /// Makes the chain of `descriptors` available, through an indirect table, and returns the length used.
    pub(super) fn submit(&mut self, descriptors: &[Descriptor]) -> u32 {
        let links: Vec<Descriptor> = (1..)
            .zip(descriptors)
            .map(|(next, (address, len, flags, _))| {
                let more = usize::from(next) < descriptors.len();
                (*address, *len, flags | if more { NEXT } else { 0 }, next)
            })
            .collect();
        self.machine.table(TABLE_AT, &links);
        let bytes = u32::try_from(links.len() * 16).expect("small");
        self.submit_raw(&[(TABLE_AT, bytes, INDIRECT, 0)])
    }

    /// Makes descriptors available exactly as they are, from head 0.
    pub(super) fn submit_raw(&mut self, descriptors: &[Descriptor]) -> u32 {
        self.machine.offer(0, descriptors, &[0]);
        self.machine.kick(0);
        self.answered += 1;
        let used = self.machine.used(0);
        assert_eq!(used.len(), self.answered, "every head comes back once");
        used.last().expect("at least one").1
    }

    /// One well-formed request.
    pub(super) fn request(&mut self, operation: u32, sector: u64, out: &[u8], into: u32) -> Answer {
        self.put_header(operation, sector);
        self.write(OUT_AT, out);
        let mut descriptors = vec![(HEADER_AT, 16, 0, 0)];
        if !out.is_empty() {
            descriptors.push((OUT_AT, u32::try_from(out.len()).expect("small"), 0, 0));
        }
        if into > 0 {
            descriptors.push((IN_AT, into, WRITE, 0));
        }
        descriptors.push((STATUS_AT, 1, WRITE, 0));
        let used = self.submit(&descriptors);
        Answer {
            status: self.read(STATUS_AT, 1)[0],
            used,
            data: self.read(IN_AT, usize::try_from(into).expect("small")),
        }
    }
}

/// Sectors as a byte count for slices.
pub(super) fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR).expect("small")
}
