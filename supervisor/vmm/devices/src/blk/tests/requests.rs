//! Every operation at and beyond the limits of the disk: the status, and the bytes of the file after it.

use super::*;

/// What a row does to the file when it succeeds.
enum Effect {
    Nothing,
    /// The data is read back from this sector.
    Reads(u64),
    /// The request's data is written from this sector.
    Writes(u64),
    /// These sectors read as zeroes.
    Zeroes(&'static [(u64, u32)]),
}

use Effect::{Nothing, Reads, Writes, Zeroes};

struct Row {
    name: &'static str,
    operation: u32,
    sector: u64,
    out: Vec<u8>,
    into: u32,
    status: u8,
    effect: Effect,
}

fn row(
    name: &'static str,
    operation: u32,
    sector: u64,
    out: Vec<u8>,
    into: u32,
    status: u8,
    effect: Effect,
) -> Row {
    Row {
        name,
        operation,
        sector,
        out,
        into,
        status,
        effect,
    }
}

/// The data of a discard or write-zeroes: sector, sectors, flags.
fn ranges(list: &[(u64, u32, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (sector, sectors, flags) in list {
        bytes.extend(sector.to_le_bytes());
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    bytes
}

fn data(len: usize) -> Vec<u8> {
    pattern(len, 101)
}

/// A byte offset of 2^64, so that a careless product is zero.
const WRAPS: u64 = 1 << 55;
const MANY: [(u64, u32, u32); 33] = [(1, 1, 0); 33];

fn rows() -> Vec<Row> {
    let none = Vec::new;
    vec![
        row("first sector", IN, 0, none(), 512, OK, Reads(0)),
        row("last sector", IN, 63, none(), 512, OK, Reads(63)),
        row("whole disk", IN, 0, none(), 64 * 512, OK, Reads(0)),
        row(
            "one sector too many",
            IN,
            63,
            none(),
            1024,
            IO_ERROR,
            Nothing,
        ),
        row(
            "whole disk and a sector",
            IN,
            0,
            none(),
            65 * 512,
            IO_ERROR,
            Nothing,
        ),
        row("from the end", IN, 64, none(), 512, IO_ERROR, Nothing),
        row("beyond the end", IN, 65, none(), 512, IO_ERROR, Nothing),
        row("last address", IN, u64::MAX, none(), 512, IO_ERROR, Nothing),
        row("product wraps", IN, WRAPS, none(), 512, IO_ERROR, Nothing),
        row("sum wraps", IN, WRAPS - 1, none(), 1024, IO_ERROR, Nothing),
        row("half a sector", IN, 0, none(), 256, IO_ERROR, Nothing),
        row("a byte short", IN, 0, none(), 511, IO_ERROR, Nothing),
        row("a byte more", IN, 0, none(), 513, IO_ERROR, Nothing),
        row("nothing", IN, 0, none(), 0, OK, Nothing),
        row("nothing at the end", IN, 64, none(), 0, OK, Nothing),
        row("nothing beyond", IN, 65, none(), 0, IO_ERROR, Nothing),
        row(
            "read that brings data",
            IN,
            0,
            data(512),
            512,
            IO_ERROR,
            Nothing,
        ),
        row("write first", OUT, 0, data(512), 0, OK, Writes(0)),
        row("write last", OUT, 63, data(512), 0, OK, Writes(63)),
        row("write many", OUT, 10, data(20 * 512), 0, OK, Writes(10)),
        row(
            "write over the end",
            OUT,
            63,
            data(1024),
            0,
            IO_ERROR,
            Nothing,
        ),
        row("write at the end", OUT, 64, data(512), 0, IO_ERROR, Nothing),
        row(
            "write at the last address",
            OUT,
            u64::MAX,
            data(512),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "write product wraps",
            OUT,
            WRAPS,
            data(512),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "write half a sector",
            OUT,
            0,
            data(100),
            0,
            IO_ERROR,
            Nothing,
        ),
        row("write nothing", OUT, 0, none(), 0, OK, Nothing),
        row(
            "write that wants data",
            OUT,
            0,
            data(512),
            512,
            IO_ERROR,
            Nothing,
        ),
        row("flush", FLUSH, 0, none(), 0, OK, Nothing),
        row(
            "flush with a sector",
            FLUSH,
            u64::MAX,
            none(),
            0,
            OK,
            Nothing,
        ),
        row("flush with data", FLUSH, 0, data(512), 0, IO_ERROR, Nothing),
        row(
            "flush that wants data",
            FLUSH,
            0,
            none(),
            512,
            IO_ERROR,
            Nothing,
        ),
        row("serial in no room", GET_ID, 0, none(), 0, IO_ERROR, Nothing),
        row(
            "serial in little room",
            GET_ID,
            0,
            none(),
            19,
            IO_ERROR,
            Nothing,
        ),
        row(
            "serial that brings data",
            GET_ID,
            0,
            data(20),
            20,
            IO_ERROR,
            Nothing,
        ),
        row(
            "discard",
            DISCARD,
            0,
            ranges(&[(8, 8, 0)]),
            0,
            OK,
            Zeroes(&[(8, 8)]),
        ),
        row(
            "discard the end",
            DISCARD,
            0,
            ranges(&[(63, 1, 0)]),
            0,
            OK,
            Zeroes(&[(63, 1)]),
        ),
        row(
            "discard nothing",
            DISCARD,
            0,
            ranges(&[(64, 0, 0)]),
            0,
            OK,
            Nothing,
        ),
        row(
            "discard over the end",
            DISCARD,
            0,
            ranges(&[(63, 2, 0)]),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "discard wraps",
            DISCARD,
            0,
            ranges(&[(WRAPS, 1, 0)]),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "discard everything",
            DISCARD,
            0,
            ranges(&[(1, u32::MAX, 0)]),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "discard with unmap",
            DISCARD,
            0,
            ranges(&[(1, 1, 1)]),
            0,
            UNSUPPORTED,
            Nothing,
        ),
        row("no range", DISCARD, 0, none(), 0, IO_ERROR, Nothing),
        row("a short range", DISCARD, 0, data(15), 0, IO_ERROR, Nothing),
        row(
            "a range and a byte",
            DISCARD,
            0,
            ranges(&[(1, 1, 0)])[..]
                .iter()
                .chain(&[0])
                .copied()
                .collect(),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "32 ranges",
            DISCARD,
            0,
            ranges(&MANY[..32]),
            0,
            OK,
            Zeroes(&[(1, 1)]),
        ),
        row("33 ranges", DISCARD, 0, ranges(&MANY), 0, IO_ERROR, Nothing),
        row(
            "good and bad range",
            DISCARD,
            0,
            ranges(&[(1, 1, 0), (64, 1, 0)]),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "discard that wants data",
            DISCARD,
            0,
            ranges(&[(1, 1, 0)]),
            16,
            IO_ERROR,
            Nothing,
        ),
        row(
            "zeroes",
            WRITE_ZEROES,
            0,
            ranges(&[(3, 5, 0)]),
            0,
            OK,
            Zeroes(&[(3, 5)]),
        ),
        row(
            "zeroes, unmapped",
            WRITE_ZEROES,
            0,
            ranges(&[(3, 5, 1)]),
            0,
            OK,
            Zeroes(&[(3, 5)]),
        ),
        row(
            "zeroes twice",
            WRITE_ZEROES,
            0,
            ranges(&[(1, 1, 0), (9, 2, 1)]),
            0,
            OK,
            Zeroes(&[(1, 1), (9, 2)]),
        ),
        row(
            "zeroes at the end",
            WRITE_ZEROES,
            0,
            ranges(&[(63, 1, 0)]),
            0,
            OK,
            Zeroes(&[(63, 1)]),
        ),
        row(
            "zeroes over the end",
            WRITE_ZEROES,
            0,
            ranges(&[(63, 2, 0)]),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "zeroes, sum wraps",
            WRITE_ZEROES,
            0,
            ranges(&[(WRAPS - 1, 2, 0)]),
            0,
            IO_ERROR,
            Nothing,
        ),
        row(
            "zeroes, unknown flag",
            WRITE_ZEROES,
            0,
            ranges(&[(3, 5, 2)]),
            0,
            UNSUPPORTED,
            Nothing,
        ),
        row(
            "zeroes, good and bad",
            WRITE_ZEROES,
            0,
            ranges(&[(3, 5, 0), (1, 1, 4)]),
            0,
            UNSUPPORTED,
            Nothing,
        ),
        row("SCSI command", 2, 0, none(), 512, UNSUPPORTED, Nothing),
        row("SCSI command out", 3, 0, data(512), 0, UNSUPPORTED, Nothing),
        row("flush out", 5, 0, none(), 0, UNSUPPORTED, Nothing),
        row("lifetime", 10, 0, none(), 512, UNSUPPORTED, Nothing),
        row(
            "secure erase",
            14,
            0,
            ranges(&[(1, 1, 0)]),
            0,
            UNSUPPORTED,
            Nothing,
        ),
        row(
            "barrier bit",
            0x8000_0000,
            0,
            none(),
            512,
            UNSUPPORTED,
            Nothing,
        ),
        row(
            "last number",
            u32::MAX,
            0,
            none(),
            512,
            UNSUPPORTED,
            Nothing,
        ),
    ]
}

/// What the row leaves in a file that held `before`.
fn after(row: &Row, before: &[u8]) -> Vec<u8> {
    let mut after = before.to_vec();
    match row.effect {
        Nothing | Reads(_) => {}
        Writes(sector) => after[bytes(sector)..][..row.out.len()].copy_from_slice(&row.out),
        Zeroes(list) => {
            for (sector, sectors) in list {
                after[bytes(*sector)..][..bytes(u64::from(*sectors))].fill(0);
            }
        }
    }
    after
}

#[test]
fn operations_on_a_writable_disk() {
    let before = pattern(bytes(SECTORS), 0);
    for row in rows() {
        let file = file(&before);
        let mut guest = Guest::raw(&file, Access::ReadWrite);
        guest.write(IN_AT, &[0xaa; 0x9000]);
        let answer = guest.request(row.operation, row.sector, &row.out, row.into);
        assert_eq!(answer.status, row.status, "{}", row.name);
        assert_eq!(contents(&file), after(&row, &before), "{}", row.name);
        match row.effect {
            Reads(sector) => {
                assert_eq!(answer.data, before[bytes(sector)..][..answer.data.len()]);
                assert_eq!(answer.used, row.into + 1, "{}", row.name);
            }
            _ => {
                assert!(answer.data.iter().all(|byte| *byte == 0xaa), "{}", row.name);
                assert_eq!(answer.used, 1, "{}", row.name);
            }
        }
        let next = guest.request(IN, 5, &[], 512);
        assert_eq!(next.status, OK, "after {}", row.name);
    }
}

#[test]
fn a_read_only_disk_never_changes() {
    let before = pattern(bytes(SECTORS), 0);
    for row in rows() {
        let file = file(&before);
        let mut guest = Guest::raw(&file, Access::ReadOnly);
        let answer = guest.request(row.operation, row.sector, &row.out, row.into);
        let expected = match row.operation {
            OUT | DISCARD | WRITE_ZEROES => IO_ERROR,
            _ => row.status,
        };
        assert_eq!(answer.status, expected, "{}", row.name);
        assert_eq!(contents(&file), before, "{}", row.name);
    }
}

#[test]
fn the_serial_is_padded_and_the_rest_left_alone() {
    let mut guest = Guest::raw(&file(&[1; 512]), Access::ReadOnly);
    guest.write(IN_AT, &[0xaa; 32]);
    let answer = guest.request(GET_ID, 0, &[], 32);
    assert_eq!(answer.status, OK);
    assert_eq!(answer.used, 21);
    assert_eq!(&answer.data[..20], b"private\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(answer.data[20..], [0xaa; 12]);
}

#[test]
fn the_driver_is_told_the_limits_that_are_enforced() {
    let guest = Guest::raw(&file(&[0; 512 * 100]), Access::ReadWrite);
    let device = crate::lock(&guest.machine.device);
    let number = |offset, width: usize| {
        let mut bytes = [0; 8];
        device.read_config(offset, &mut bytes[..width]);
        u64::from_le_bytes(bytes)
    };
    for (name, offset, width, value) in [
        ("capacity", 0, 8, 100),
        ("size_max", 8, 4, 128 << 10),
        ("seg_max", 12, 4, 128),
        ("blk_size", 20, 4, 512),
        ("num_queues", 34, 2, 1),
        ("max_discard_seg", 40, 4, 32),
        ("max_write_zeroes_seg", 52, 4, 32),
        ("write_zeroes_may_unmap", 56, 1, 1),
        ("beyond", 60, 8, 0),
    ] {
        assert_eq!(number(offset, width), value, "{name}");
    }
    let features = device.features();
    for (name, bit, offered) in [("RO", 5, 0), ("FLUSH", 9, 1), ("DISCARD", 13, 1)] {
        assert_eq!(features >> bit & 1, offered, "{name}");
    }
}
