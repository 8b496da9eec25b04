//! Requests that are well-formed for the queue and wrong for the device: row B3 of the test plan.

use crate::asm::Width;
use crate::guest::{Descriptor, Device, Guest, NEXT, RAM, WRITE, common, used};
use crate::proof::{
    CID, DISK, FIRST, MAC, Packet, SECOND, THIRD, descriptor, good, packet, request,
};

/// One case: its name, device, and what is done. The device then has to work.
pub(crate) struct Row {
    name: String,
    device: Device,
    act: Box<dyn Fn(&mut Guest)>,
}

/// All cases.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    disk(&mut rows);
    sockets(&mut rows);
    frames(&mut rows);
    sound(&mut rows);
    others(&mut rows);
    rows
}

/// One case.
pub(crate) fn case(guest: &mut Guest, row: &Row) {
    guest.case(&format!("{} {}", row.device.name(), row.name), |guest| {
        (row.act)(guest);
        guest.check_canary();
        guest.prove(row.device);
    });
}

fn add(rows: &mut Vec<Row>, device: Device, name: &str, act: impl Fn(&mut Guest) + 'static) {
    rows.push(Row {
        name: name.to_owned(),
        device,
        act: Box::new(act),
    });
}

/// Status bytes of a disk request.
const IO_ERROR: u32 = 1;
const UNSUPPORTED: u32 = 2;

fn disk(rows: &mut Vec<Row>) {
    let sectors = u64::from(DISK / 512);
    // Type, sector, and length of the data; what the status byte must be.
    for (name, kind, sector, len, status) in [
        (
            "B3-1 read of the last sector and one more",
            0,
            sectors - 1,
            1024,
            IO_ERROR,
        ),
        ("B3-1 read past the end", 0, sectors, 512, IO_ERROR),
        (
            "B3-1 read of the last possible sector",
            0,
            u64::MAX,
            512,
            IO_ERROR,
        ),
        (
            "B3-1 read whose bytes wrap around",
            0,
            u64::MAX / 512,
            512,
            IO_ERROR,
        ),
        ("B3-1 read of half a sector", 0, 1, 100, IO_ERROR),
        (
            "B3-1 read of more than a request may have",
            0,
            0,
            17 << 20,
            IO_ERROR,
        ),
        ("B3-1 serial into too little room", 8, 0, 4, IO_ERROR),
        ("B3-1 unknown type", 0x1234, 1, 512, UNSUPPORTED),
        ("B3-1 SCSI command", 2, 1, 512, UNSUPPORTED),
        ("B3-1 type of all ones", u32::MAX, 1, 512, UNSUPPORTED),
    ] {
        add(rows, Device::Block, name, move |guest| {
            guest.start(Device::Block, 0);
            guest.block_header(kind, sector);
            guest.code.write(Width::Byte, THIRD, 0xee);
            guest.chain(
                0,
                &[
                    descriptor(FIRST, 16, NEXT, 1),
                    descriptor(SECOND, len, NEXT | WRITE, 2),
                    descriptor(THIRD, 1, WRITE, 0),
                ],
            );
            guest.kick(Device::Block, 0);
            guest.wait(used(0), 0xffff_0000, 1 << 16);
            guest.expect(Width::Byte, THIRD, 0xff, status);
        });
    }
    for (name, kind, len, status) in [
        ("B3-1 write to a disk that is only read", 1, 512, IO_ERROR),
        ("B3-1 discard of a disk that is only read", 11, 16, IO_ERROR),
        ("B3-1 zeroes to a disk that is only read", 13, 16, IO_ERROR),
        (
            "B3-1 ranges that are no multiple of their length",
            11,
            17,
            IO_ERROR,
        ),
    ] {
        add(rows, Device::Block, name, move |guest| {
            guest.start(Device::Block, 0);
            guest.block_header(kind, 0);
            guest.bytes(SECOND, &[0xff; 64]);
            guest.code.write(Width::Byte, THIRD, 0xee);
            guest.chain(
                0,
                &[
                    descriptor(FIRST, 16, NEXT, 1),
                    descriptor(SECOND, len, NEXT, 2),
                    descriptor(THIRD, 1, WRITE, 0),
                ],
            );
            guest.kick(Device::Block, 0);
            guest.wait(used(0), 0xffff_0000, 1 << 16);
            guest.code.read(Width::Byte, THIRD);
            // Refused in one of the two ways, and answered.
            guest.code.raw(&[0x48]); // dec eax
            guest.check_eax(!1, 0);
            assert!(status == IO_ERROR || status == UNSUPPORTED);
        });
    }
    for (name, chain) in [
        ("B3-1 header alone", vec![descriptor(FIRST, 16, 0, 0)]),
        ("B3-1 status alone", vec![descriptor(THIRD, 1, WRITE, 0)]),
        (
            "B3-1 header cut short",
            vec![
                descriptor(FIRST, 15, NEXT, 1),
                descriptor(THIRD, 1, WRITE, 0),
            ],
        ),
        (
            "B3-1 header in sixteen pieces",
            (0..15)
                .map(|n| descriptor(FIRST + u32::from(n), 1, NEXT, n + 1))
                .chain([descriptor(THIRD, 513, WRITE, 0)])
                .collect(),
        ),
    ] {
        add(rows, Device::Block, name, move |guest| {
            guest.start(Device::Block, 0);
            guest.block_header(0, 1);
            guest.chain(0, &chain);
            guest.kick(Device::Block, 0);
            guest.settle(Device::Block, 0);
        });
    }
}

fn sockets(rows: &mut Vec<Row>) {
    let good = Packet::default();
    let max = u32::MAX;
    for (name, sent) in [
        ("B3-4 from the host's CID", Packet { source: 2, ..good }),
        (
            "B3-4 from another VM's CID",
            Packet {
                source: u64::from(CID) + 1,
                ..good
            },
        ),
        (
            "B3-4 from CID any",
            Packet {
                source: max.into(),
                ..good
            },
        ),
        (
            "B3-4 from a CID of 64 bits",
            Packet {
                source: u64::from(CID) | 1 << 40,
                ..good
            },
        ),
        (
            "B3-4 to another VM",
            Packet {
                target: u64::from(CID) + 1,
                ..good
            },
        ),
        (
            "B3-4 to itself",
            Packet {
                target: CID.into(),
                ..good
            },
        ),
        ("B3-4 to CID 0", Packet { target: 0, ..good }),
        (
            "B3-4 to CID any",
            Packet {
                target: max.into(),
                ..good
            },
        ),
        ("B3-4 unknown type", Packet { kind: 7, ..good }),
        ("B3-4 sequenced packets", Packet { kind: 2, ..good }),
        (
            "B3-4 operation 0",
            Packet {
                operation: 0,
                ..good
            },
        ),
        (
            "B3-4 unknown operation",
            Packet {
                operation: 99,
                ..good
            },
        ),
        (
            "B3-4 response without a request",
            Packet {
                operation: 2,
                ..good
            },
        ),
        (
            "B3-4 reset of nothing",
            Packet {
                operation: 3,
                ..good
            },
        ),
        (
            "B3-4 shutdown of nothing",
            Packet {
                operation: 4,
                flags: 3,
                ..good
            },
        ),
        (
            "B3-4 data without a connection",
            Packet {
                operation: 5,
                len: 64,
                ..good
            },
        ),
        (
            "B3-4 data longer than the chain",
            Packet {
                operation: 5,
                len: max,
                ..good
            },
        ),
        (
            "B3-4 credit for nothing",
            Packet {
                operation: 6,
                ..good
            },
        ),
        (
            "B3-4 credit asked for nothing",
            Packet {
                operation: 7,
                ..good
            },
        ),
        (
            "B3-4 request with data behind it",
            Packet { len: 64, ..good },
        ),
        ("B3-4 no room at all", Packet { room: 0, ..good }),
        (
            "B3-4 all room there is",
            Packet {
                room: max,
                forwarded: max,
                ..good
            },
        ),
        (
            "B3-4 unknown flags",
            Packet {
                operation: 4,
                flags: max,
                ..good
            },
        ),
        (
            "B3-4 port any",
            Packet {
                from: max,
                to: max,
                ..good
            },
        ),
        (
            "B3-4 port 0",
            Packet {
                from: 0,
                to: 0,
                ..good
            },
        ),
    ] {
        add(rows, Device::Vsock, name, move |guest| {
            send(guest, &sent.encode(), &[descriptor(FIRST, 108, 0, 0)]);
        });
    }
    add(rows, Device::Vsock, "B3-4 header in many pieces", |guest| {
        let pieces: Vec<Descriptor> = (0..11_u16)
            .map(|n| {
                let flags = if n < 10 { NEXT } else { 0 };
                descriptor(FIRST + 4 * u32::from(n), 4, flags, n + 1)
            })
            .collect();
        send(guest, &packet(1, 1000, 9999), &pieces);
    });
    add(rows, Device::Vsock, "B3-4 header cut short", |guest| {
        send(
            guest,
            &packet(1, 1000, 9999),
            &[descriptor(FIRST, 43, 0, 0)],
        );
    });
    add(rows, Device::Vsock, "B3-4 a thousand requests", |guest| {
        guest.start(Device::Vsock, 0);
        guest.bytes(FIRST, &packet(1, 1000, 9999));
        guest.chain(1, &[descriptor(FIRST, 44, 0, 0)]);
        let index = crate::guest::available(1) + 2;
        let port = FIRST + 16;
        let kick = Device::Vsock.bar() + 0x3004;
        guest.code.repeat(1000, |code| {
            code.raw(&[0xff, 0x05]); // inc dword [port]
            code.raw(&port.to_le_bytes());
            code.raw(&[0x66, 0xff, 0x05]); // inc word [index]
            code.raw(&index.to_le_bytes());
            code.write(Width::Word, kick, 1);
        });
        guest.settle(Device::Vsock, 1);
    });
}

/// Sends one vsock packet with a buffer posted for the answer, and gives it time.
fn send(guest: &mut Guest, bytes: &[u8], chain: &[Descriptor]) {
    guest.start(Device::Vsock, 0);
    guest.code.fill(FIRST, 128, 0);
    guest.bytes(FIRST, bytes);
    guest.chain(0, &[descriptor(THIRD, 4096, WRITE, 0)]);
    guest.kick(Device::Vsock, 0);
    guest.chain(1, chain);
    guest.kick(Device::Vsock, 1);
    guest.settle(Device::Vsock, 1);
    guest.tell(Device::Vsock, 1);
}

fn frames(rows: &mut Vec<Row>) {
    let ethernet = |source: [u8; 6], kind: [u8; 2]| -> Vec<u8> {
        [&[0xff; 6][..], &source, &kind, &[0; 46]].concat()
    };
    let own = ethernet(MAC, [8, 0]);
    let header = |fields: [u8; 10]| [&fields[..], &[0, 0]].concat();
    let plain = header([0; 10]);
    for (name, bytes, len) in [
        ("B3-3 no header", vec![0; 4], 4),
        ("B3-3 header alone", plain.clone(), 12),
        ("B3-3 a byte after the header", plain.clone(), 13),
        (
            "B3-3 foreign source",
            [plain.clone(), ethernet([2, 0, 0, 0, 0, 9], [8, 0])].concat(),
            72,
        ),
        (
            "B3-3 group source",
            [plain.clone(), ethernet([0xff; 6], [8, 0])].concat(),
            72,
        ),
        (
            "B3-3 VLAN tag",
            [plain.clone(), ethernet(MAC, [0x81, 0])].concat(),
            72,
        ),
        (
            "B3-3 longest frame and a byte",
            [plain.clone(), own.clone()].concat(),
            65_551,
        ),
        (
            "B3-3 a frame of a megabyte",
            [plain.clone(), own.clone()].concat(),
            1 << 20,
        ),
        (
            "B3-3 checksum outside of the frame",
            [
                header([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
                own.clone(),
            ]
            .concat(),
            72,
        ),
        (
            "B3-3 checksum at the last byte",
            [header([1, 0, 0, 0, 0, 0, 59, 0, 0, 0]), own.clone()].concat(),
            72,
        ),
        (
            "B3-3 segments of nothing",
            [header([1, 1, 54, 0, 0, 0, 34, 0, 16, 0]), own.clone()].concat(),
            72,
        ),
        (
            "B3-3 segments of an unknown kind",
            [header([0, 0x55, 1, 0, 1, 0, 0, 0, 0, 0]), own.clone()].concat(),
            72,
        ),
        (
            "B3-3 header longer than the frame",
            [header([1, 1, 0xff, 0xff, 1, 0, 34, 0, 16, 0]), own].concat(),
            72,
        ),
    ] {
        add(rows, Device::Net, name, move |guest| {
            guest.start(Device::Net, 0);
            guest.code.fill(FIRST, 128, 0);
            guest.bytes(FIRST, &bytes);
            guest.chain(1, &[descriptor(FIRST, len, 0, 0)]);
            guest.kick(Device::Net, 1);
            guest.wait(used(1), 0xffff_0000, 1 << 16);
        });
    }
}

fn sound(rows: &mut Vec<Row>) {
    const BAD: u32 = 0x8001;
    const UNSUPPORTED: u32 = 0x8002;
    const SHAPE: u32 = 0x0007_0502;
    // Words of a request, and the status that answers it.
    let requests: [(&str, &'static [u32], u32); 10] = [
        ("B3-10 no request", &[0, 0], UNSUPPORTED),
        ("B3-10 request of all ones", &[u32::MAX; 6], UNSUPPORTED),
        ("B3-10 jacks that wrap", &[1, u32::MAX, 2, 24], BAD),
        ("B3-10 streams of 4 GiB", &[0x100, 0, 1, u32::MAX], BAD),
        ("B3-10 parameters cut short", &[0x101, 0, 2048, 512], BAD),
        (
            "B3-10 buffer of 4 GiB",
            &[0x101, 0, 0xffff_fe00, 512, 0, SHAPE],
            UNSUPPORTED,
        ),
        (
            "B3-10 period of nothing",
            &[0x101, 0, 2048, 0, 0, SHAPE],
            BAD,
        ),
        ("B3-10 no stream", &[0x101, 7, 2048, 512, 0, SHAPE], BAD),
        ("B3-10 start of what is not prepared", &[0x104, 0], BAD),
        ("B3-10 release of what is not there", &[0x103, 1], BAD),
    ];
    for (name, words, status) in requests {
        add(rows, Device::Sound, name, move |guest| {
            guest.start(Device::Sound, 0);
            let bytes = request(words);
            guest.bytes(FIRST, &bytes);
            let len = u32::try_from(bytes.len()).expect("short");
            guest.chain(
                0,
                &[
                    descriptor(FIRST, len, NEXT, 1),
                    descriptor(SECOND, 64, WRITE, 0),
                ],
            );
            guest.kick(Device::Sound, 0);
            guest.wait(used(0), 0xffff_0000, 1 << 16);
            guest.expect(Width::Long, SECOND, u32::MAX, status);
        });
    }
    for queue in [2, 3] {
        let name = format!("B3-10 message for a stream that is not prepared, queue {queue}");
        add(rows, Device::Sound, &name, move |guest| {
            guest.start(Device::Sound, 0);
            guest.contents(Device::Sound, queue);
            guest.chain(queue, &good(Device::Sound, queue));
            guest.kick(Device::Sound, queue);
            guest.wait(used(queue), 0xffff_0000, 1 << 16);
            guest.expect(Width::Long, THIRD, u32::MAX, 0x8003);
        });
    }
}

fn others(rows: &mut Vec<Row>) {
    for (name, first, len) in [
        ("B3-8 page of nobody", 0x0fff_ffff_u32, 4),
        ("B3-8 page in the hole", 0xd_0000, 4),
        ("B3-8 page of the local APIC", 0xf_ee00, 4),
        ("B3-8 first page after memory", RAM >> 12, 4),
        ("B3-8 the same page twice", 0x3100, 8),
        ("B3-8 half a page number", 0x3100, 2),
        ("B3-8 its own rings", used(1) >> 12, 4),
    ] {
        for queue in [0, 1] {
            let name = format!("{name}, queue {queue}");
            add(rows, Device::Balloon, &name, move |guest| {
                guest.start(Device::Balloon, 0);
                guest.bytes(FIRST, &[first.to_le_bytes(), first.to_le_bytes()].concat());
                guest.chain(queue, &[descriptor(FIRST, len, 0, 0)]);
                guest.kick(Device::Balloon, queue);
                guest.settle(Device::Balloon, queue);
                guest.tell(Device::Balloon, queue);
            });
        }
    }
    for (name, value) in [
        ("B3-8 more pages than asked for", u32::MAX),
        ("B3-8 no pages", 0),
    ] {
        add(rows, Device::Balloon, name, move |guest| {
            guest.start(Device::Balloon, 0);
            guest.register(Device::Balloon, 0x2004, Width::Long, value);
        });
    }
    for (name, len, flags, most) in [
        ("B3-7 nothing to write to", 64, 0, 0),
        (
            "B3-7 more than a request may have",
            1 << 20,
            WRITE,
            64 << 10,
        ),
    ] {
        add(rows, Device::Rng, name, move |guest| {
            guest.start(Device::Rng, 0);
            guest.chain(0, &[descriptor(FIRST, len, flags, 0)]);
            guest.kick(Device::Rng, 0);
            guest.wait(used(0), 0xffff_0000, 1 << 16);
            guest.expect(Width::Long, used(0) + 8, u32::MAX, most);
        });
    }
    add(rows, Device::Console, "B3-6 escape sequences", |guest| {
        guest.start(Device::Console, 0);
        guest.bytes(FIRST, b"\x1b[2J\x1b]0;title\x07\x1b[31m\xff\xfe\0\r\n");
        guest.chain(1, &[descriptor(FIRST, 24, 0, 0)]);
        guest.kick(Device::Console, 1);
        guest.wait(used(1), 0xffff_0000, 1 << 16);
    });
    for device in Device::ALL {
        add(
            rows,
            device,
            "B3-9 registers that are only read",
            move |guest| {
                for at in [0x04, 0x12, 0x15, 0x1e] {
                    guest.code.read(Width::Long, device.bar() + 0x2000);
                    guest.register(device, at, Width::Byte, 0xff);
                    guest.register(device, at, Width::Word, 0xffff);
                    guest.register(device, at, Width::Long, u32::MAX);
                }
                guest.code.read(Width::Word, device.bar() + 0x12);
                let reserved = common::QUEUE_SELECT;
                guest.register(device, reserved, Width::Word, 0);
            },
        );
    }
}
