//! B3: well-formed chains whose contents are wrong, each for the one device that it is meant for.

use std::os::unix::fs::FileExt as _;

use super::Case;
use super::machine::{BUFFERS, Machine};
use super::target::{Far, OTHER, OWN, Target, disk_bytes, frame, is_reset, receive, vsock_packet};
use crate::fake::{Descriptor, NEXT, WRITE};

const SECOND: u64 = BUFFERS + 0x1000;
const STATUS_AT: u64 = BUFFERS + 0x2000;
/// Room for much: the second region of memory.
const LARGE: u64 = 0x20_0000;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = blk();
    cases.extend(net());
    cases.extend(vsock());
    cases.extend(rng());
    cases.extend(balloon());
    cases.extend(console());
    cases
}

const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// One past the last sector.
const END: u64 = 64;
/// A byte offset of 2^64.
const WRAPS: u64 = 1 << 55;

/// A request that is refused with `status`: its operation, sector, data for the device, and room for its own.
type BlkRow = (&'static str, u32, u64, usize, u32, u8);

fn blk() -> Vec<Case> {
    let rows: [BlkRow; 33] = [
        ("read_over_the_end", 0, END - 1, 0, 1024, IO_ERROR),
        ("read_from_the_end", 0, END, 0, 512, IO_ERROR),
        ("read_from_the_last_address", 0, u64::MAX, 0, 512, IO_ERROR),
        ("read_where_the_product_wraps", 0, WRAPS, 0, 512, IO_ERROR),
        ("read_where_the_sum_wraps", 0, WRAPS - 1, 0, 1024, IO_ERROR),
        ("read_of_half_a_sector", 0, 0, 0, 256, IO_ERROR),
        ("read_that_brings_data", 0, 0, 512, 512, IO_ERROR),
        ("write_over_the_end", 1, END - 1, 1024, 0, IO_ERROR),
        ("write_from_the_end", 1, END, 512, 0, IO_ERROR),
        ("write_from_the_last_address", 1, u64::MAX, 512, 0, IO_ERROR),
        ("write_where_the_product_wraps", 1, WRAPS, 512, 0, IO_ERROR),
        ("write_where_the_sum_wraps", 1, WRAPS - 1, 1024, 0, IO_ERROR),
        ("write_of_half_a_sector", 1, 0, 256, 0, IO_ERROR),
        ("write_with_room_for_data", 1, 0, 512, 512, IO_ERROR),
        ("scsi_command", 2, 0, 512, 0, UNSUPPORTED),
        ("scsi_command_out", 3, 0, 0, 512, UNSUPPORTED),
        ("flush_with_data", 4, 0, 512, 0, IO_ERROR),
        ("flush_with_room", 4, 0, 0, 512, IO_ERROR),
        ("flush_out", 5, 0, 0, 0, UNSUPPORTED),
        ("type_7", 7, 0, 0, 512, UNSUPPORTED),
        ("identify_short", 8, 0, 0, 19, IO_ERROR),
        ("identify_without_room", 8, 0, 0, 0, IO_ERROR),
        ("identify_with_data", 8, 0, 16, 20, IO_ERROR),
        ("lifetime", 10, 0, 0, 512, UNSUPPORTED),
        ("discard_of_nothing", 11, 0, 0, 0, IO_ERROR),
        ("discard_of_half_a_range", 11, 0, 8, 0, IO_ERROR),
        ("discard_of_33_ranges", 11, 0, 33 * 16, 0, IO_ERROR),
        ("discard_with_room", 11, 0, 16, 16, IO_ERROR),
        ("zeroes_of_nothing", 13, 0, 0, 0, IO_ERROR),
        ("zeroes_of_33_ranges", 13, 0, 33 * 16, 0, IO_ERROR),
        ("secure_erase", 14, 0, 16, 0, UNSUPPORTED),
        ("type_sign", 1 << 31, 0, 0, 512, UNSUPPORTED),
        ("type_last", u32::MAX, 0, 0, 512, UNSUPPORTED),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(name, operation, sector, out, into, status)| {
            Case::new("B3-1", name, move |machine| {
                refused(machine, operation, sector, &vec![0; out], into, status);
            })
            .only(Target::Blk)
        })
        .collect();
    // Ranges: sector, sectors, flags.
    for (name, operation, range, status) in [
        ("discard_over_the_end", 11, (END - 1, 2, 0), IO_ERROR),
        ("discard_that_wraps", 11, (WRAPS, 1, 0), IO_ERROR),
        ("discard_of_most", 11, (u64::MAX, u32::MAX, 0), IO_ERROR),
        ("discard_that_unmaps", 11, (0, 1, 1), UNSUPPORTED),
        ("zeroes_over_the_end", 13, (END, 1, 0), IO_ERROR),
        ("zeroes_that_wrap", 13, (WRAPS - 1, 2, 1), IO_ERROR),
        ("zeroes_with_unknown_flags", 13, (0, 1, 2), UNSUPPORTED),
    ] {
        cases.push(
            Case::new("B3-1", name, move |machine| {
                let (sector, sectors, flags): (u64, u32, u32) = range;
                let mut bytes = sector.to_le_bytes().to_vec();
                bytes.extend(sectors.to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                refused(machine, operation, 0, &bytes, 0, status);
            })
            .only(Target::Blk),
        );
    }
    for len in [0, 1, 8, 15] {
        cases.push(
            Case::new("B3-1", format!("header_of_{len}"), move |machine| {
                machine.write(STATUS_AT, &[0xee]);
                machine.offer(&[(BUFFERS, len, NEXT, 1), (STATUS_AT, 1, WRITE, 0)], &[0]);
                machine.work();
                assert_eq!(machine.read(STATUS_AT, 1), [IO_ERROR]);
            })
            .only(Target::Blk),
        );
    }
    cases
}

/// A request that must be refused and leave the file as it is.
fn refused(machine: &mut Machine, operation: u32, sector: u64, out: &[u8], into: u32, status: u8) {
    let header = [operation.to_le_bytes(), [0; 4]].concat();
    machine.write(BUFFERS, &[header, sector.to_le_bytes().to_vec()].concat());
    machine.write(BUFFERS + 16, out);
    machine.write(STATUS_AT, &[0xee]);
    let out = u32::try_from(out.len()).expect("small");
    let chain = [
        (BUFFERS, 16 + out, NEXT, 1),
        (SECOND, into, NEXT | WRITE, 2),
        (STATUS_AT, 1, WRITE, 0),
    ];
    machine.offer(&chain, &[0]);
    machine.work();
    assert_eq!(machine.read(STATUS_AT, 1), [status]);
    let Far::Disk(file) = &machine.far else {
        return;
    };
    let mut bytes = vec![0; disk_bytes().len() + 1];
    let len = file.read_at(&mut bytes, 0).expect("a file");
    assert!(bytes[..len] == disk_bytes(), "the file has changed");
}

/// A frame that never leaves: the header, and the frame after it.
fn net() -> Vec<Case> {
    let plain = [0; 12];
    let header = |flags: u8, gso: u8, fields: [u16; 4]| {
        let mut bytes = [0; 12];
        (bytes[0], bytes[1]) = (flags, gso);
        for (place, field) in bytes[2..10].chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    };
    let own = frame(OWN);
    let with_type = |kind: u16| {
        let mut bytes = frame(OWN);
        bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        bytes
    };
    let mut long = frame(OWN);
    long.resize(65_550, 0);
    let rows: Vec<(&str, [u8; 12], Vec<u8>)> = vec![
        ("header_only", plain, Vec::new()),
        ("frame_of_a_byte", plain, own[..1].to_vec()),
        ("frame_of_13", plain, own[..13].to_vec()),
        ("frame_of_65550", plain, long),
        ("foreign_source", plain, frame(OTHER)),
        ("source_is_zero", plain, frame([0; 6])),
        ("source_is_everyone", plain, frame([0xff; 6])),
        ("source_is_a_group", plain, frame([3, 0, 0, 0, 0, 7])),
        ("source_in_one_bit", plain, frame([2, 0, 0, 0, 0, 6])),
        ("vlan", plain, with_type(0x8100)),
        ("service_vlan", plain, with_type(0x88a8)),
        ("old_vlan", plain, with_type(0x9100)),
        ("header_longer", header(0, 0, [61, 0, 0, 0]), own.clone()),
        (
            "header_longest",
            header(0, 0, [0xffff, 0, 0, 0]),
            own.clone(),
        ),
        ("checksum_over", header(1, 0, [0, 0, 34, 25]), own.clone()),
        ("checksum_far", header(1, 0, [0, 0, 0xffff, 2]), own.clone()),
        (
            "checksum_wraps",
            header(1, 0, [0, 0, 60, 0xffff]),
            own.clone(),
        ),
        (
            "checksum_in_the_middle",
            header(1, 0, [0, 0, 60, 0]),
            own.clone(),
        ),
        (
            "segments_unknown",
            header(1, 2, [54, 100, 34, 16]),
            own.clone(),
        ),
        ("segments_udp", header(1, 3, [54, 100, 34, 16]), own.clone()),
        (
            "segments_ecn",
            header(1, 0x81, [54, 100, 34, 16]),
            own.clone(),
        ),
        (
            "segments_of_zero",
            header(1, 1, [54, 0, 34, 16]),
            own.clone(),
        ),
        (
            "segments_unsummed",
            header(0, 1, [54, 100, 34, 16]),
            own.clone(),
        ),
        (
            "segments_of_ipv6",
            header(1, 4, [54, 100, 34, 16]),
            own.clone(),
        ),
        ("segments_of_no_tcp", header(1, 1, [14, 1, 14, 16]), own),
    ];
    rows.into_iter()
        .map(|(name, header, frame)| {
            Case::new("B3-3", name, move |machine| {
                let bytes = [header.as_slice(), &frame].concat();
                machine.write(LARGE, &bytes);
                let len = u32::try_from(bytes.len()).expect("small");
                machine.offer(&[(LARGE, len, 0, 0)], &[0]);
                machine.work();
                if let Far::Wire(far) = &machine.far {
                    assert_eq!(receive(far), None, "nothing left");
                }
            })
            .only(Target::NetTx)
        })
        .collect()
}

/// A packet: source and destination, the length that it says, kind, operation, and how many resets answer it.
type VsockRow = (&'static str, (u64, u64), u32, u16, u16, usize);

fn vsock() -> Vec<Case> {
    let ours = (7, 2);
    let rows: [VsockRow; 24] = [
        ("from_the_host", (2, 2), 0, 1, 1, 0),
        ("from_the_hypervisor", (0, 2), 0, 1, 1, 0),
        ("from_the_loop", (1, 2), 0, 1, 1, 0),
        ("from_another_vm", (8, 2), 0, 1, 1, 0),
        ("from_anyone", (0xffff_ffff, 2), 0, 1, 1, 0),
        ("from_beyond_32_bits", (7 | 1 << 32, 2), 0, 1, 1, 0),
        ("to_another_vm", (7, 8), 0, 1, 1, 0),
        ("to_itself", (7, 7), 0, 1, 1, 0),
        ("to_the_hypervisor", (7, 0), 0, 1, 1, 0),
        ("to_anyone", (7, 0xffff_ffff), 0, 1, 1, 0),
        ("to_beyond_32_bits", (7, 2 | 1 << 32), 0, 1, 1, 0),
        ("operation_0", ours, 0, 1, 0, 1),
        ("operation_8", ours, 0, 1, 8, 1),
        ("operation_last", ours, 0, 1, 0xffff, 1),
        ("sequenced", ours, 0, 2, 1, 1),
        ("datagram", ours, 0, 3, 5, 1),
        ("kind_0", ours, 0, 0, 1, 1),
        ("kind_last", ours, 0, 0xffff, 1, 1),
        ("data_without_a_connection", ours, 16, 1, 5, 1),
        ("response_to_nothing", ours, 0, 1, 2, 1),
        ("shutdown_of_nothing", ours, 0, 1, 4, 1),
        ("credit_for_nothing", ours, 0, 1, 6, 1),
        ("reset_of_nothing", ours, 0, 1, 3, 0),
        ("longer_than_its_chain", ours, u32::MAX, 1, 5, 1),
    ];
    rows.into_iter()
        .map(|(name, cids, len, kind, operation, resets)| {
            Case::new("B3-4", name, move |machine| {
                let packet = vsock_packet(cids, len, kind, operation);
                machine.write(BUFFERS, &packet);
                machine.offer(&[(BUFFERS, 60, 0, 0)], &[0]);
                machine.work();
                let answers = machine.collect(0);
                assert_eq!(answers.len(), resets);
                for (head, _) in answers {
                    assert!(is_reset(&machine.read(Target::answer_at(head), 44)));
                    machine.target.give_answer_back(machine, head);
                }
            })
            .only(Target::VsockTx)
        })
        .collect()
}

fn rng() -> Vec<Case> {
    let rows: [(&str, Vec<Descriptor>, u32); 5] = [
        ("more_than_there_is", vec![(LARGE, u32::MAX, WRITE, 0)], 0),
        ("2_mib", vec![(LARGE, 0x20_0000, WRITE, 0)], 0x1_0000),
        (
            "4_mib_in_pieces",
            vec![
                (LARGE, 0x20_0000, WRITE | NEXT, 1),
                (LARGE, 0x20_0000, WRITE, 0),
            ],
            0x1_0000,
        ),
        ("for_the_device", vec![(LARGE, 64, 0, 0)], 0),
        ("nothing", vec![(LARGE, 0, WRITE, 0)], 0),
    ];
    rows.into_iter()
        .map(|(name, chain, expected)| {
            Case::new("B3-7", name, move |machine| {
                machine.offer(&chain, &[0]);
                machine.work();
                let (_, _, written) = machine.used_of(0);
                assert_eq!(written, expected);
            })
            .only(Target::Rng)
        })
        .collect()
}

/// Lists of pages that a guest gives, and the first page that is then zero, if any.
fn balloon() -> Vec<Case> {
    let rows: [(&str, Vec<u32>, Option<u64>); 9] = [
        ("beyond_memory", vec![0x400], None),
        ("in_the_hole", vec![0x100, 0x1ff], None),
        ("last_number", vec![u32::MAX; 3], None),
        ("run_into_the_hole", (0xf8..0x110).collect(), Some(0xf8)),
        ("run_out_of_memory", (0x3f8..0x410).collect(), Some(0x3f8)),
        ("one_page_often", vec![0xc8; 512], Some(0xc8)),
        ("backwards", (0xc0..0xd0).rev().collect(), Some(0xc0)),
        ("its_own_list", vec![0x40], Some(0x40)),
        ("first_page", vec![0], Some(0)),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(name, list, zero)| {
            Case::new("B3-8", name, move |machine| {
                give(machine, 0, &list);
                if let Some(page) = zero {
                    assert_eq!(machine.read(page << 12, 0x1000), vec![0; 0x1000]);
                }
            })
            .only(Target::Balloon)
        })
        .collect();
    cases.push(
        Case::new("B3-8", "its_own_rings", |machine| {
            machine.is_chaos = true;
            give(machine, 0, &(0x10..0x20).collect::<Vec<_>>());
        })
        .only(Target::Balloon),
    );
    cases.push(
        Case::new("B3-8", "deflated_but_never_given", |machine| {
            give(machine, 1, &[0xc0, 0xc8, u32::MAX]);
        })
        .only(Target::Balloon),
    );
    for len in [1, 3, 5, 0x10_0000] {
        cases.push(
            Case::new("B3-8", format!("list_of_{len:#x}_bytes"), move |machine| {
                machine.write(LARGE, &vec![0xff; 0x10_0000]);
                machine.offer(&[(LARGE, len, 0, 0)], &[0]);
                machine.work();
            })
            .only(Target::Balloon),
        );
    }
    for (offset, len) in [(0, 4), (4, 4), (4, 8), (8, 4), (0xffc, 4), (5, 1)] {
        let name = format!("configuration_{offset:#x}_{len}");
        cases.push(
            Case::new("B3-8", name, move |machine| {
                machine.set((0x2000 + offset, len), u64::MAX);
                machine.get((0x2000 + offset, len));
            })
            .only(Target::Balloon),
        );
    }
    cases
}

fn give(machine: &mut Machine, queue: u16, list: &[u32]) {
    let bytes: Vec<u8> = list.iter().flat_map(|page| page.to_le_bytes()).collect();
    machine.write(BUFFERS, &bytes);
    let len = u32::try_from(bytes.len()).expect("small");
    machine.offer_on(queue, &[(BUFFERS, len, 0, 0)], &[0]);
    machine.kick(queue);
    machine.work();
}

/// Terminals would obey these; the device only passes on what it was given, and not without bound.
fn console() -> Vec<Case> {
    [
        ("escapes", b"\x1b]0;owned\x07\x1b[2J".as_slice()),
        ("nothing_printable", &[0; 64]),
        ("not_text", &[0xff; 64]),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        Case::new("B3-6", name, move |machine| {
            let all = bytes.repeat(0x20_0000 / bytes.len());
            machine.write(LARGE, &all);
            machine.offer(&[(LARGE, 0x20_0000, 0, 0)], &[0; 16]);
            machine.work();
        })
        .only(Target::Console)
    })
    .collect()
}
