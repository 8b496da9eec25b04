//! What a well-behaved driver asks of each device, and how the answer is known to be right.

use crate::asm::Width;
use crate::guest::{BUFFERS, Descriptor, Device, Guest, NEXT, WRITE, ring, used};

/// The network device's address.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The vsock CID of the VM.
pub(crate) const CID: u32 = 3;
/// Length of the disk in bytes.
pub(crate) const DISK: u32 = 64 << 10;

/// The 32-bit word at `index` of the disk.
pub(crate) fn word(index: u32) -> u32 {
    index.wrapping_mul(2_654_435_761) ^ 0x5eed
}

/// Where the parts of a request are.
pub(crate) const FIRST: u32 = BUFFERS;
pub(crate) const SECOND: u32 = BUFFERS + 0x2000;
pub(crate) const THIRD: u32 = BUFFERS + 0x4000;

pub(crate) fn descriptor(address: u32, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address: address.into(),
        len,
        flags,
        next,
    }
}

impl Guest {
    /// Writes bytes to memory, padded with zeros to whole words.
    pub(crate) fn bytes(&mut self, address: u32, bytes: &[u8]) {
        for (index, chunk) in (0_u32..).zip(bytes.chunks(4)) {
            let mut long = [0; 4];
            long[..chunk.len()].copy_from_slice(chunk);
            let at = address + 4 * index;
            self.code.write(Width::Long, at, u32::from_le_bytes(long));
        }
    }

    /// Puts into memory what the good request of a queue consists of.
    pub(crate) fn contents(&mut self, device: Device, queue: u16) {
        match (device, queue) {
            (Device::Block, _) => self.block_header(0, 1),
            (Device::Net, 1) => {
                let mut frame = vec![0; 12];
                frame.extend([0xff; 6]);
                frame.extend(MAC);
                frame.extend([0x08, 0]);
                self.bytes(FIRST, &frame);
            }
            (Device::Console, 1) => self.bytes(FIRST, b"#\n"),
            (Device::Balloon, _) => self.bytes(FIRST, &0x3100_u32.to_le_bytes()),
            (Device::Vsock, 1) => self.bytes(FIRST, &packet(1, 1000, 9999)),
            (Device::Sound, 0) => self.bytes(FIRST, &request(&[0x100, 0, 1, 32])),
            (Device::Sound, 2) => self.bytes(FIRST, &request(&[0])),
            (Device::Sound, 3) => self.bytes(FIRST, &request(&[1])),
            _ => {}
        }
    }

    /// Writes the header of a disk request.
    pub(crate) fn block_header(&mut self, kind: u32, sector: u64) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.bytes(FIRST, &header);
    }

    /// Resets a device, starts it, and has it do its work.
    pub(crate) fn prove(&mut self, device: Device) {
        for part in [FIRST, SECOND, THIRD] {
            self.code.fill(part, 0x300, 0);
        }
        self.start(device, 0);
        let queue = match device {
            Device::Block | Device::Rng | Device::Balloon => 0,
            Device::Net | Device::Console | Device::Vsock => 1,
            Device::Sound => 2,
        };
        self.contents(device, queue);
        if device == Device::Vsock {
            self.chain(0, &[descriptor(THIRD, 4096, WRITE, 0)]);
            self.kick(device, 0);
        }
        if device == Device::Sound {
            self.start_playing();
        }
        self.code.write(Width::Byte, THIRD, 0xee);
        self.chain(queue, &good(device, queue));
        self.kick(device, queue);
        self.wait(used(queue), 0xffff_0000, 1 << 16);
        match device {
            Device::Block => {
                self.expect(Width::Byte, THIRD, 0xff, 0);
                self.expect(Width::Long, SECOND, u32::MAX, word(128));
                self.expect(Width::Long, SECOND + 508, u32::MAX, word(255));
                self.expect(Width::Long, SECOND + 512, u32::MAX, 0);
            }
            Device::Rng => {
                self.expect(Width::Long, used(0) + 8, u32::MAX, 64);
                // One in 2^32 that this is zero by chance.
                self.code.read(Width::Long, FIRST);
                self.code.raw(&[0xf7, 0xd8, 0x19, 0xc0]); // neg eax; sbb eax, eax
                self.check_eax(u32::MAX, u32::MAX);
            }
            Device::Vsock => {
                // Nobody listens there: a reset comes back.
                self.wait(used(0), 0xffff_0000, 1 << 16);
                self.expect(Width::Word, THIRD + 30, 0xffff, 3);
                self.expect(Width::Long, THIRD + 16, u32::MAX, 9999);
            }
            Device::Sound => {
                self.expect(Width::Long, THIRD, u32::MAX, SOUND_OK);
                self.expect(Width::Long, used(2) + 8, u32::MAX, 8);
            }
            Device::Net | Device::Console | Device::Balloon => {}
        }
        self.expect(
            Width::Byte,
            device.bar() + crate::guest::common::STATUS,
            0xff,
            15,
        );
        assert!(ring(queue) < BUFFERS);
    }
}

/// The status of a request to the sound card that went well.
const SOUND_OK: u32 = 0x8000;

/// Words of a request to the sound card.
pub(crate) fn request(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Guest {
    /// Sets, prepares and starts the card's first stream: S16, stereo, 48 kHz, four periods of 512 bytes.
    fn start_playing(&mut self) {
        let requests: [&[u32]; 3] = [
            &[0x101, 0, 2048, 512, 0, 0x0007_0502],
            &[0x102, 0],
            &[0x104, 0],
        ];
        for (slot, words) in (0_u16..).zip(requests) {
            let bytes = request(words);
            let (at, answer) = (SECOND + 0x40 * u32::from(slot), SECOND + 0x200);
            let answer = answer + 4 * u32::from(slot);
            self.bytes(at, &bytes);
            let len = u32::try_from(bytes.len()).expect("short");
            let first = 2 * slot;
            self.descriptor(ring(0), first, descriptor(at, len, NEXT, first + 1));
            self.descriptor(ring(0), first + 1, descriptor(answer, 4, WRITE, 0));
        }
        self.offer(0, &[0, 2, 4], 3);
        self.kick(Device::Sound, 0);
        self.wait(used(0), 0xffff_0000, 3 << 16);
        for slot in 0..3 {
            self.expect(Width::Long, SECOND + 0x200 + 4 * slot, u32::MAX, SOUND_OK);
        }
    }
}

/// A vsock header from this guest to the host.
pub(crate) fn packet(operation: u16, from: u32, to: u32) -> Vec<u8> {
    Packet {
        from,
        to,
        operation,
        ..Packet::default()
    }
    .encode()
}

/// A vsock header, field by field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) source: u64,
    pub(crate) target: u64,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) operation: u16,
    pub(crate) flags: u32,
    pub(crate) room: u32,
    pub(crate) forwarded: u32,
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            source: CID.into(),
            target: 2,
            from: 1000,
            to: 9999,
            len: 0,
            kind: 1,
            operation: 1,
            flags: 0,
            room: 65536,
            forwarded: 0,
        }
    }
}

impl Packet {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.to_le_bytes());
        bytes.extend(self.target.to_le_bytes());
        bytes.extend(self.from.to_le_bytes());
        bytes.extend(self.to.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.operation.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.room.to_le_bytes());
        bytes.extend(self.forwarded.to_le_bytes());
        bytes
    }
}

/// The good request of a queue.
pub(crate) fn good(device: Device, queue: u16) -> Vec<Descriptor> {
    match (device, queue) {
        (Device::Block, _) => vec![
            descriptor(FIRST, 16, NEXT, 1),
            descriptor(SECOND, 512, NEXT | WRITE, 2),
            descriptor(THIRD, 1, WRITE, 0),
        ],
        (Device::Net, 1) => vec![descriptor(FIRST, 72, 0, 0)],
        (Device::Console, 1) => vec![descriptor(FIRST, 2, 0, 0)],
        (Device::Balloon, _) => vec![descriptor(FIRST, 4, 0, 0)],
        (Device::Vsock, 1) => vec![descriptor(FIRST, 44, 0, 0)],
        (Device::Rng, _) => vec![descriptor(FIRST, 64, WRITE, 0)],
        (Device::Sound, 0) => vec![
            descriptor(FIRST, 16, NEXT, 1),
            descriptor(SECOND, 36, WRITE, 0),
        ],
        (Device::Sound, 2) => vec![
            descriptor(FIRST, 4, NEXT, 1),
            descriptor(FIRST + 0x400, 512, NEXT, 2),
            descriptor(THIRD, 8, WRITE, 0),
        ],
        (Device::Sound, 3) => vec![
            descriptor(FIRST, 4, NEXT, 1),
            descriptor(SECOND, 512, NEXT | WRITE, 2),
            descriptor(THIRD, 8, WRITE, 0),
        ],
        // Where the device writes when it has something to say.
        (Device::Net | Device::Console | Device::Vsock | Device::Sound, _) => {
            vec![descriptor(FIRST, 4096, WRITE, 0)]
        }
    }
}
