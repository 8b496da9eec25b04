//! What the other end sends, which may be another hostile VM.

use super::*;

fn packet(header: [u8; 12], frame: &[u8]) -> Vec<u8> {
    [&header, frame].concat()
}

/// Buffers of `len` bytes, one per head.
fn buffers(guest: &Guest, count: u16, len: u32) {
    offer(guest, count, len, &(0..count).collect::<Vec<_>>());
}

/// Describes `count` buffers and makes those with these heads available.
fn offer(guest: &Guest, count: u16, len: u32, heads: &[u16]) {
    let chains: Vec<Descriptor> = (0..count)
        .map(|index| {
            (
                BUFFERS_AT + u64::from(index) * u64::from(len),
                len,
                WRITE,
                0,
            )
        })
        .collect();
    guest.machine.offer(RX, &chains, heads);
    guest.machine.kick(RX);
}

#[test]
fn a_frame_lies_in_as_many_buffers_as_it_needs() {
    // Length of a frame, of the buffers, and how many are used.
    for (len, room, count) in [
        (60, 1526, 1),
        (1514, 1526, 1),
        (1515, 1526, 2),
        (9000, 2048, 5),
        (100, 12, 10),
    ] {
        let guest = Guest::without(0);
        buffers(&guest, 16, room);
        let bytes = frame(OTHER, 0x0800, len);
        guest.incoming(&packet(PLAIN, &bytes));
        let used = guest.machine.used(RX);
        assert_eq!(used.len(), count, "{len}");
        let total: u32 = used.iter().map(|(_, written)| *written).sum();
        assert_eq!(usize::try_from(total).expect("small"), 12 + len);
        let got = guest.read(BUFFERS_AT, 12 + len);
        assert_eq!(got[12..], bytes, "{len}");
        let number = u16::from_le_bytes([got[10], got[11]]);
        assert_eq!(usize::from(number), count, "num_buffers of {len}");
        assert_eq!(guest.counters.received(), 1);
    }
}

#[test]
fn a_frame_waits_until_there_are_buffers() {
    let guest = Guest::without(0);
    let bytes = frame(OTHER, 0x0800, 3000);
    guest.incoming(&packet(PLAIN, &bytes));
    guest.incoming(&packet(PLAIN, &frame(OTHER, 0x0800, 60)));
    assert_eq!(guest.machine.used(RX), []);
    buffers(&guest, 1, 1526);
    assert_eq!(
        guest.machine.used(RX),
        [],
        "one is not enough, and is not used up"
    );
    offer(&guest, 5, 1526, &[1, 2, 3, 4]);
    let heads: Vec<u32> = guest
        .machine
        .used(RX)
        .iter()
        .map(|(head, _)| *head)
        .collect();
    assert_eq!(heads, [0, 1, 2]);
    assert_eq!(guest.counters.received(), 2);
}

#[test]
fn without_merging_a_frame_is_in_one_buffer_or_lost() {
    let guest = Guest::without(feature::MRG_RXBUF);
    buffers(&guest, 3, 1526);
    guest.incoming(&packet(PLAIN, &frame(OTHER, 0x0800, 3000)));
    guest.incoming(&packet(PLAIN, &frame(OTHER, 0x0800, 60)));
    assert_eq!(guest.machine.used(RX), [(0, 72)]);
    assert_eq!(guest.lost(), [(Loss::Undeliverable, 1)]);
}

#[test]
fn buffers_that_cannot_be_used_come_back_empty() {
    let rows: &[(&str, &[Descriptor])] = &[
        ("readable", &[(BUFFERS_AT, 2048, 0, 0)]),
        ("outside", &[(crate::fake::MEMORY, 2048, WRITE, 0)]),
        ("too small", &[(BUFFERS_AT, 11, WRITE, 0)]),
        ("loop", &[(BUFFERS_AT, 2048, WRITE | NEXT, 0)]),
        (
            "mixed",
            &[(BUFFERS_AT, 12, NEXT, 1), (BUFFERS_AT, 2048, WRITE, 0)],
        ),
    ];
    for (name, chain) in rows {
        let guest = Guest::without(0);
        guest.machine.offer(RX, chain, &[0]);
        guest.machine.kick(RX);
        let bytes = packet(PLAIN, &frame(OTHER, 0x0800, 60));
        guest.incoming(&bytes);
        assert_eq!(guest.machine.used(RX), [(0, 0)], "{name}");
        assert_eq!(guest.lost(), [(Loss::BadBuffer, 1)], "{name}");
        buffers(&guest, 1, 2048);
        guest.incoming(&bytes);
        assert_eq!(guest.machine.used(RX), [(0, 0), (0, 72)], "after {name}");
    }
}

#[test]
fn a_head_that_is_in_flight_is_refused_a_second_time() {
    let guest = Guest::without(0);
    offer(&guest, 1, 1526, &[0, 0]);
    guest.incoming(&packet(PLAIN, &frame(OTHER, 0x0800, 3000)));
    assert!(guest.machine.interrupt.is_broken());
    assert_eq!(guest.machine.used(RX), []);
    // One after the other is the driver's own affair.
    let guest = Guest::without(0);
    offer(&guest, 1, 1526, &[0, 0]);
    for _ in 0..2 {
        guest.incoming(&packet(PLAIN, &frame(OTHER, 0x0800, 60)));
    }
    assert_eq!(guest.machine.used(RX), [(0, 72), (0, 72)]);
}

#[test]
fn buffers_that_never_suffice_do_not_hold_the_wire() {
    let guest = Guest::without(0);
    buffers(&guest, 16, 12);
    guest.incoming(&packet(PLAIN, &frame(OTHER, 0x0800, 3000)));
    assert_eq!(guest.machine.used(RX).len(), 16);
    assert_eq!(guest.lost(), [(Loss::Undeliverable, 1)]);
}

#[test]
fn nonsense_of_the_other_end_does_not_reach_the_guest() {
    let plain = frame(OTHER, 0x0800, 60);
    let rows: &[(&str, Vec<u8>)] = &[
        ("header only", PLAIN.to_vec()),
        ("half a header", vec![0; 7]),
        ("short frame", packet(PLAIN, &plain[..13])),
        ("too long", packet(PLAIN, &frame(OTHER, 0x0800, 65_551))),
        (
            "checksum outside",
            packet(header(1, 0, [0, 0, 59, 0]), &plain),
        ),
        (
            "unknown gso",
            packet(header(1, 9, [54, 1448, 34, 16]), &plain),
        ),
        (
            "gso without a checksum",
            packet(header(0, 1, [54, 1448, 34, 16]), &tcp(0x0800, 4000)),
        ),
        ("vlan", packet(PLAIN, &frame(OTHER, 0x8100, 60))),
    ];
    for (name, bytes) in rows {
        let guest = Guest::without(0);
        buffers(&guest, 16, 2048);
        guest.incoming(bytes);
        assert_eq!(guest.machine.used(RX), [], "{name}");
        assert_eq!(guest.lost(), [(Loss::Incoming, 1)], "{name}");
        guest.incoming(&packet(PLAIN, &plain));
        assert_eq!(guest.counters.received(), 1, "after {name}");
    }
}

/// The sum that a receiver computes over a segment whose checksum is complete: all ones.
fn folded(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

#[test]
fn a_guest_without_checksums_gets_them_completed() {
    for len in [60, 61, 1514] {
        let guest = Guest::without(feature::GUEST_CSUM);
        buffers(&guest, 16, 2048);
        let mut bytes = frame(OTHER, 0x0800, len);
        // A pseudo header's sum of zero, so that the segment alone must add up.
        bytes[40..42].fill(0);
        guest.incoming(&packet(header(1, 0, [0, 0, 34, 6]), &bytes));
        let got = guest.read(BUFFERS_AT, 12 + len);
        assert_eq!(got[0], 0, "nothing is left to do");
        assert_eq!(folded(&got[12 + 34..]), 0xffff, "{len}");
        guest.incoming(&packet(
            header(1, 1, [54, 1448, 34, 16]),
            &tcp(0x0800, 4000),
        ));
        assert_eq!(guest.lost(), [(Loss::Undeliverable, 1)]);
    }
}

#[test]
fn a_stream_is_cut_into_frames_wherever_it_breaks() {
    for step in [1, 3, 64, 5000] {
        let (near, far) = pair(SocketType::STREAM);
        let guest = Guest::on(Wire::stream(near), far, 0);
        buffers(&guest, 16, 2048);
        let mut stream = Vec::new();
        for len in [14_usize, 60, 1514] {
            stream.extend(u32::try_from(len).expect("small").to_be_bytes());
            stream.extend(frame(OTHER, 0x0800, len));
        }
        for part in stream.chunks(step) {
            guest.incoming(part);
        }
        let lens: Vec<u32> = guest.machine.used(RX).iter().map(|used| used.1).collect();
        assert_eq!(lens, [26, 72, 1526], "{step}");
    }
    for length in [0_u32, 13, 65_550, u32::MAX] {
        let (near, far) = pair(SocketType::STREAM);
        let guest = Guest::on(Wire::stream(near), far, 0);
        guest.incoming(&length.to_be_bytes());
        let mut status = [0xff; 2];
        crate::lock(&guest.machine.device).read_config(6, &mut status);
        assert_eq!(
            status,
            [0, 0],
            "{length}: nothing after it can be understood"
        );
    }
}
