//! What the card says of itself, and what it says to requests that make no sense.

use super::*;

fn query(code: u32, start: u32, count: u32, size: u32) -> Vec<u8> {
    [code, start, count, size].map(u32::to_le_bytes).concat()
}

const JACKS: u32 = 1;
const STREAMS: u32 = 0x100;
const MAPS: u32 = 0x200;

#[test]
fn the_card_has_one_of_each_and_two_if_it_may_record() {
    for (can_record, count) in [(false, 1_u8), (true, 2)] {
        let guest = Guest::new(can_record, None);
        let mut config = [0xff; 20];
        lock(&guest.sound).read_config(0, &mut config);
        assert_eq!([config[0], config[4], config[8]], [count; 3]);
        assert_eq!(config[12..], [0; 8], "no controls");
    }
}

#[test]
fn items_are_those_of_the_specification() {
    let mut guest = Guest::new(true, None);
    let ok = OK.to_le_bytes();
    let jacks = [
        &ok[..],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0x10, 0, 0x14, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0xa0, 0, 0x24, 0, 0, 0],
        &[0; 8],
    ];
    assert_eq!(guest.ask(&query(JACKS, 0, 2, 24), 100), jacks.concat());
    // S16, S32 and FLOAT are bits 5, 17 and 19; 44.1 and 48 kHz are 6 and 7.
    let stream = [
        &ok[..],
        &[0; 8],
        &[0x20, 0, 0x0a, 0, 0, 0, 0, 0],
        &[0xc0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 1, 2, 0, 0, 0, 0, 0],
    ];
    assert_eq!(guest.ask(&query(STREAMS, 1, 1, 32), 36), stream.concat());
    let map = [&ok[..], &[0, 0, 0, 0, 0, 2, 3, 4], &[0; 16]];
    assert_eq!(guest.ask(&query(MAPS, 0, 1, 24), 28), map.concat());
}

#[test]
fn items_are_as_long_as_the_driver_knows_them() {
    let mut guest = Guest::new(false, None);
    let whole = guest.ask(&query(STREAMS, 0, 1, 32), 100);
    let longer = guest.ask(&query(STREAMS, 0, 1, 64), 100);
    assert_eq!(longer[..36], whole);
    assert_eq!(longer[36..], [0; 32]);
    assert_eq!(guest.ask(&query(STREAMS, 0, 1, 8), 100), whole[..12]);
    assert_eq!(guest.ask(&query(STREAMS, 0, 0, 32), 4), whole[..4]);
}

#[test]
fn queries_of_what_is_not_there_are_refused() {
    let mut guest = Guest::new(true, None);
    for (name, start, count, size, room) in [
        ("one too many", 0, 3, 24, 4000),
        ("after the last", 2, 1, 24, 4000),
        ("the sum wraps", u32::MAX, 2, 24, 4000),
        ("all numbers", 0, u32::MAX, 24, 4000),
        ("huge items", 0, 1, 65, 4000),
        ("items of 4 GiB", 0, 1, u32::MAX, 4000),
        ("no room for the second", 0, 2, 24, 51),
    ] {
        for code in [JACKS, STREAMS, MAPS] {
            let answer = guest.ask(&query(code, start, count, size), room);
            assert_eq!(answer, BAD.to_le_bytes(), "{name} {code:#x}");
        }
    }
}

#[test]
fn requests_that_are_none_are_answered_as_such() {
    let mut guest = Guest::new(true, None);
    for code in [
        0,
        2,
        3,
        0xff,
        0x106,
        0x201,
        0x300,
        0x303,
        0x1000,
        0x8000,
        u32::MAX,
    ] {
        assert_eq!(guest.status(&[code, 0, 0, 0]), UNSUPPORTED, "{code:#x}");
    }
    for (code, whole) in [
        (JACKS, 16),
        (STREAMS, 16),
        (SET, 24),
        (PREPARE, 8),
        (START, 8),
    ] {
        let request = [code.to_le_bytes().as_slice(), &[0; 20]].concat();
        for len in 1..whole {
            let answer = guest.ask(&request[..len], 100);
            assert_eq!(answer, BAD.to_le_bytes(), "{len} bytes of {code:#x}");
        }
    }
    for stream in [2, 3, 0x8000_0000, u32::MAX] {
        assert_eq!(guest.set(stream, BUFFER, PERIOD, [2, 5, 7]), BAD);
        assert_eq!(guest.status(&[PREPARE, stream]), BAD);
    }
}

#[test]
fn a_request_without_room_for_its_answer_does_nothing() {
    let mut guest = Guest::new(false, None);
    assert_eq!(guest.set(0, BUFFER, PERIOD, [2, 5, 7]), OK);
    for room in 0..4 {
        let request = [PREPARE, 0].map(u32::to_le_bytes).concat();
        assert!(guest.ask(&request, room).is_empty());
    }
    assert_eq!(guest.status(&[START, 0]), BAD, "it was not prepared");
}

#[test]
fn parameters_are_bounded_at_their_edges() {
    let mut guest = Guest::new(false, None);
    let shape = [2, 5, 7];
    for (name, buffer, period, shape, expected) in [
        ("usual", BUFFER, PERIOD, shape, OK),
        ("one period", PERIOD, PERIOD, shape, OK),
        ("largest", 256 * 1024, 4096, shape, OK),
        (
            "over the largest",
            256 * 1024 + 4096,
            4096,
            shape,
            UNSUPPORTED,
        ),
        ("4 GiB", 0xffff_f000, 4096, shape, UNSUPPORTED),
        ("shortest period", 1280, 128, shape, OK),
        ("shorter", 1240, 124, shape, UNSUPPORTED),
        ("no buffer", 0, PERIOD, shape, BAD),
        ("no period", BUFFER, 0, shape, BAD),
        ("nothing", 0, 0, shape, BAD),
        ("half a frame", 1922 * 4, 1922, shape, BAD),
        ("period and a half", 3 * PERIOD / 2, PERIOD, shape, BAD),
        ("period over the buffer", PERIOD, 2 * PERIOD, shape, BAD),
        ("mono", BUFFER, PERIOD, [1, 5, 7], OK),
        ("S32", BUFFER, PERIOD, [2, 17, 6], OK),
        ("float", BUFFER, PERIOD, [2, 19, 6], OK),
        ("no channel", BUFFER, PERIOD, [0, 5, 7], UNSUPPORTED),
        ("three channels", BUFFER, PERIOD, [3, 5, 7], UNSUPPORTED),
        ("255 channels", BUFFER, PERIOD, [255, 5, 7], UNSUPPORTED),
        ("U8", BUFFER, PERIOD, [2, 4, 7], UNSUPPORTED),
        ("format 64", BUFFER, PERIOD, [2, 64, 7], UNSUPPORTED),
        ("format 255", BUFFER, PERIOD, [2, 255, 7], UNSUPPORTED),
        ("96 kHz", BUFFER, PERIOD, [2, 5, 10], UNSUPPORTED),
        ("rate 255", BUFFER, PERIOD, [2, 5, 255], UNSUPPORTED),
    ] {
        assert_eq!(guest.set(0, buffer, period, shape), expected, "{name}");
    }
    let last = u32::from_le_bytes([2, 5, 7, 0]);
    for feature in 0..32 {
        let words = [SET, 0, BUFFER, PERIOD, 1 << feature, last];
        assert_eq!(guest.status(&words), UNSUPPORTED, "feature {feature}");
    }
}
