//! What a guest sends: only whole frames of its own, with headers that say the truth.

use super::*;

type HeaderRow<'a> = (&'a str, [u8; 12], &'a [u8], u64, Option<[u8; 12]>);

#[test]
fn headers_are_checked_and_written_anew() {
    const T4: u16 = 0x0800;
    const T6: u16 = 0x86dd;
    let large = tcp(T4, 4000);
    let large6 = tcp(T6, 4000);
    let plain = frame(OWN, T4, 60);
    let mut short_tcp = large.clone();
    short_tcp[34 + 12] = 4 << 4;
    let mut long_tcp = tcp(T4, 60);
    long_tcp[34 + 12] = 15 << 4;
    let good = [54, 1448, 34, 16];
    let all = 0;
    // Header, frame, features left out, and the header that arrives; none is lost as a bad header.
    let rows: &[HeaderRow<'_>] = &[
        ("plain", PLAIN, &plain, all, Some(PLAIN)),
        (
            "num_buffers",
            header(0, 0, [0; 4]),
            &plain,
            all,
            Some(PLAIN),
        ),
        (
            "hints without use",
            header(0, 0, [54, 9, 3, 4]),
            &plain,
            all,
            Some(PLAIN),
        ),
        (
            "hdr_len is the frame",
            header(0, 0, [60, 0, 0, 0]),
            &plain,
            all,
            Some(PLAIN),
        ),
        (
            "hdr_len is longer",
            header(0, 0, [61, 0, 0, 0]),
            &plain,
            all,
            None,
        ),
        (
            "hdr_len 65535",
            header(0, 0, [0xffff, 0, 0, 0]),
            &plain,
            all,
            None,
        ),
        (
            "checksum",
            header(1, 0, [0, 0, 34, 6]),
            &plain,
            all,
            Some(header(1, 0, [0, 0, 34, 6])),
        ),
        (
            "checksum at the end",
            header(1, 0, [0, 0, 34, 24]),
            &plain,
            all,
            Some(header(1, 0, [0, 0, 34, 24])),
        ),
        (
            "checksum over the end",
            header(1, 0, [0, 0, 34, 25]),
            &plain,
            all,
            None,
        ),
        (
            "checksum far out",
            header(1, 0, [0, 0, 0xffff, 0xffff]),
            &plain,
            all,
            None,
        ),
        (
            "checksum start out",
            header(1, 0, [0, 0, 60, 0]),
            &plain,
            all,
            None,
        ),
        (
            "checksum over addresses",
            header(1, 0, [0, 0, 13, 6]),
            &plain,
            all,
            None,
        ),
        (
            "checksum, not agreed",
            header(1, 0, [0, 0, 34, 6]),
            &plain,
            feature::CSUM,
            None,
        ),
        (
            "valid is not its to say",
            header(2, 0, [0; 4]),
            &plain,
            all,
            Some(PLAIN),
        ),
        ("unknown flag", header(4, 0, [0; 4]), &plain, all, None),
        ("all flags", header(0xff, 0, [0; 4]), &plain, all, None),
        (
            "tso4",
            header(1, 1, good),
            &large,
            all,
            Some(header(1, 1, good)),
        ),
        (
            "tso4, longer hint",
            header(1, 1, [100, 1448, 34, 16]),
            &large,
            all,
            Some(header(1, 1, good)),
        ),
        (
            "tso4, hint cuts",
            header(1, 1, [53, 1448, 34, 16]),
            &large,
            all,
            None,
        ),
        (
            "tso4, no size",
            header(1, 1, [54, 0, 34, 16]),
            &large,
            all,
            None,
        ),
        ("tso4, no checksum", header(0, 1, good), &large, all, None),
        (
            "tso4, other field",
            header(1, 1, [54, 1448, 34, 6]),
            &large,
            all,
            None,
        ),
        (
            "tso4, short header",
            header(1, 1, good),
            &short_tcp,
            all,
            None,
        ),
        (
            "tso4, header over the end",
            header(1, 1, good),
            &long_tcp,
            all,
            None,
        ),
        (
            "tso4, start far away",
            header(1, 1, [1000, 1448, 900, 16]),
            &large,
            all,
            None,
        ),
        (
            "tso4, not agreed",
            header(1, 1, good),
            &large,
            feature::HOST_TSO4,
            None,
        ),
        (
            "tso4, no checksums agreed",
            header(1, 1, good),
            &large,
            feature::CSUM,
            None,
        ),
        (
            "tso4 of ipv6",
            header(1, 1, [74, 1428, 54, 16]),
            &large6,
            all,
            None,
        ),
        (
            "tso6",
            header(1, 4, [74, 1428, 54, 16]),
            &large6,
            all,
            Some(header(1, 4, [74, 1428, 54, 16])),
        ),
        (
            "tso6, not agreed",
            header(1, 4, [74, 1428, 54, 16]),
            &large6,
            feature::HOST_TSO6,
            None,
        ),
        ("tso6 of ipv4", header(1, 4, good), &large, all, None),
        ("ecn", header(1, 0x81, good), &large, all, None),
        ("udp", header(1, 3, good), &large, all, None),
        ("udp segments", header(1, 5, good), &large, all, None),
        ("unknown gso", header(1, 2, good), &large, all, None),
        ("gso 255", header(1, 0xff, good), &large, all, None),
    ];
    for (name, sent, bytes, without, expected) in rows {
        let guest = Guest::without(*without);
        guest.transmit(*sent, bytes);
        let arrived = guest.arrived();
        let mut wanted = expected.map(|header| [&header, *bytes].concat());
        if let Some(packet) = &mut wanted {
            packet[10] = 1;
        }
        assert_eq!(arrived, wanted, "{name}");
        let losses: &[_] = if expected.is_some() {
            &[]
        } else {
            &[(Loss::Header, 1)]
        };
        assert_eq!(guest.lost(), losses, "{name}");
        guest.transmit(PLAIN, &plain);
        assert!(guest.arrived().is_some(), "after {name}");
    }
}

#[test]
fn only_whole_frames_of_its_own_leave() {
    let mut broadcast = frame(OWN, 0x0806, 60);
    broadcast[..6].fill(0xff);
    let longest = frame(OWN, 0x0800, super::super::MAX_FRAME);
    let rows: &[(&str, Vec<u8>, Option<Loss>)] = &[
        ("smallest", frame(OWN, 0x0800, 14), None),
        ("usual", frame(OWN, 0x0800, 1514), None),
        ("longest", longest, None),
        ("broadcast", broadcast, None),
        ("one too short", frame(OWN, 0x0800, 13), Some(Loss::Length)),
        ("empty", vec![], Some(Loss::Length)),
        ("too long", frame(OWN, 0x0800, 65_551), Some(Loss::Length)),
        (
            "another's address",
            frame(OTHER, 0x0800, 60),
            Some(Loss::ForeignSource),
        ),
        (
            "broadcast source",
            frame([0xff; 6], 0x0800, 60),
            Some(Loss::ForeignSource),
        ),
        (
            "zero source",
            frame([0; 6], 0x0800, 60),
            Some(Loss::ForeignSource),
        ),
        (
            "last bit differs",
            frame([2, 0, 0, 0, 0, 6], 0x0800, 60),
            Some(Loss::ForeignSource),
        ),
        ("vlan", frame(OWN, 0x8100, 60), Some(Loss::Vlan)),
        (
            "vlan of a provider",
            frame(OWN, 0x88a8, 60),
            Some(Loss::Vlan),
        ),
        ("old vlan", frame(OWN, 0x9100, 60), Some(Loss::Vlan)),
    ];
    for (name, bytes, why) in rows {
        let guest = Guest::without(0);
        guest.transmit(PLAIN, bytes);
        let arrived = guest.arrived().map(|packet| packet[12..].to_vec());
        match why {
            None => assert_eq!(arrived.as_ref(), Some(bytes), "{name}"),
            Some(why) => {
                assert_eq!(arrived, None, "{name}");
                assert_eq!(guest.lost(), [(*why, 1)], "{name}");
            }
        }
        assert_eq!(guest.machine.used(TX), [(0, 0)], "{name}");
    }
}

#[test]
fn a_frame_may_be_cut_anywhere_and_a_bad_chain_is_no_frame() {
    let whole = frame(OWN, 0x0800, 100);
    let rows: &[(&str, &[Descriptor], bool)] = &[
        (
            "header apart",
            &[(FRAME_AT, 12, NEXT, 1), (FRAME_AT + 12, 100, 0, 0)],
            true,
        ),
        (
            "in the middle of everything",
            &[
                (FRAME_AT, 5, NEXT, 1),
                (FRAME_AT + 5, 13, NEXT, 2),
                (FRAME_AT + 18, 1, NEXT, 3),
                (FRAME_AT + 19, 93, 0, 0),
            ],
            true,
        ),
        ("no header", &[(FRAME_AT, 11, 0, 0)], false),
        ("header only", &[(FRAME_AT, 12, 0, 0)], false),
        ("nothing", &[(FRAME_AT, 0, 0, 0)], false),
        (
            "a part to write",
            &[(FRAME_AT, 112, NEXT, 1), (FRAME_AT, 9, WRITE, 0)],
            false,
        ),
        ("all to write", &[(FRAME_AT, 112, WRITE, 0)], false),
        (
            "outside",
            &[(FRAME_AT, 12, NEXT, 1), (crate::fake::MEMORY, 100, 0, 0)],
            false,
        ),
        (
            "loop",
            &[(FRAME_AT, 12, NEXT, 1), (FRAME_AT, 100, NEXT, 0)],
            false,
        ),
        ("4 GiB", &[(FRAME_AT, u32::MAX, 0, 0)], false),
    ];
    for (name, chain, good) in rows {
        let guest = Guest::without(0);
        guest.write(FRAME_AT, &[&PLAIN, whole.as_slice()].concat());
        guest.machine.offer(TX, chain, &[0]);
        guest.machine.kick(TX);
        assert_eq!(guest.arrived().is_some(), *good, "{name}");
        assert_eq!(guest.machine.used(TX), [(0, 0)], "{name}");
        guest.transmit(PLAIN, &whole);
        assert!(guest.arrived().is_some(), "after {name}");
    }
}

#[test]
fn a_wire_without_room_holds_the_queue_and_loses_nothing() {
    for kind in [SocketType::SEQPACKET, SocketType::STREAM] {
        let (near, far) = pair(kind);
        let wire = match kind {
            SocketType::STREAM => Wire::stream(near),
            _ => Wire::cable(near),
        };
        let guest = Guest::on(wire, far, 0);
        let bytes = [&PLAIN, frame(OWN, 0x0800, 60_000).as_slice()].concat();
        guest.write(FRAME_AT, &bytes);
        let len = u32::try_from(bytes.len()).expect("small");
        let count = 16;
        guest.machine.offer(TX, &[(FRAME_AT, len, 0, 0)], &[0; 16]);
        guest.machine.kick(TX);
        let sent = guest.machine.used(TX).len();
        assert!(sent < count, "{kind:?}: the wire is full after {sent}");
        let mut arrived = 0;
        for _ in 0..100 {
            while let Some(bytes) = guest.arrived() {
                arrived += bytes.len();
            }
            guest.machine.rest();
        }
        assert_eq!(guest.machine.used(TX).len(), count, "{kind:?}");
        let each = if kind == SocketType::STREAM {
            60_004
        } else {
            60_012
        };
        assert_eq!(arrived, count * each, "{kind:?}");
        assert_eq!(guest.lost(), [], "{kind:?}");
    }
}

#[test]
fn frames_of_a_stream_are_whole_and_in_order_however_they_are_gathered() {
    let (near, far) = pair(SocketType::STREAM);
    let guest = Guest::on(Wire::stream(near), far, 0);
    let lengths = [60, 1514, 4096, 4097, 1514, 20_000];
    let frames = lengths.map(|len| frame(OWN, 0x0800, len));
    let (mut chains, mut at) = (Vec::new(), FRAME_AT);
    for bytes in &frames {
        let bytes = [&PLAIN, bytes.as_slice()].concat();
        guest.write(at, &bytes);
        let len = u32::try_from(bytes.len()).expect("small");
        chains.push((at, len, 0, 0));
        at += 0x6000;
    }
    // Nobody reads before the wire is full.
    let (mut order, mut arrived) = (Vec::new(), Vec::new());
    let mut was_full = false;
    for round in 0..12_u16 {
        let heads: Vec<u16> = (0..16).map(|n| (n + round) * 5 % 6).collect();
        guest.machine.offer(TX, &chains, &heads);
        guest.machine.kick(TX);
        order.extend(heads);
        let is_done = || guest.machine.used(TX).len() == order.len();
        was_full |= !is_done();
        while !is_done() || round == 11 {
            let Some(bytes) = guest.arrived() else {
                break;
            };
            arrived.extend(bytes);
            guest.machine.rest();
        }
        assert!(is_done(), "round {round}");
    }
    assert!(was_full);
    let mut rest = arrived.as_slice();
    for (place, which) in order.iter().enumerate() {
        let expected = &frames[usize::from(*which)];
        let (length, after) = rest.split_first_chunk::<4>().expect("a length");
        let len = usize::try_from(u32::from_be_bytes(*length)).expect("small");
        assert_eq!(len, expected.len(), "frame {place}");
        assert!(after[..len] == expected[..], "frame {place}");
        rest = &after[len..];
    }
    assert_eq!(rest, [0_u8; 0]);
    assert_eq!(guest.lost(), []);
}

#[test]
fn a_pulled_cable_is_told_and_swallows_what_follows() {
    let Guest {
        machine,
        counters,
        far,
    } = Guest::without(0);
    drop(far);
    machine.rest();
    let mut status = [0xff; 2];
    crate::lock(&machine.device).read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
    machine.offer(TX, &[(FRAME_AT, 100, 0, 0)], &[0; 3]);
    machine.kick(TX);
    assert_eq!(machine.used(TX).len(), 3);
    assert_eq!(counters.sent(), 0);
}
