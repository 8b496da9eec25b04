//! Packets that no driver would send, and what each costs: nothing, or the guest's own connection.

use super::*;

/// A change to a well-formed packet.
type Change = fn(&mut Packet);

#[test]
fn packets_on_a_live_connection() {
    // What the guest hears, and whether the connection lives on.
    let rows: &[(&str, u16, Change, &[u16], bool)] = &[
        ("data", DATA, |p| *p = p.clone().data(b"x"), &[], true),
        ("no data", DATA, |_| {}, &[], true),
        ("credit update", CREDIT_UPDATE, |_| {}, &[], true),
        (
            "credit request",
            CREDIT_REQUEST,
            |_| {},
            &[CREDIT_UPDATE],
            true,
        ),
        ("request again", REQUEST, |_| {}, &[RESET], false),
        ("response", RESPONSE, |_| {}, &[RESET], false),
        ("operation 0", 0, |_| {}, &[RESET], false),
        ("operation 8", 8, |_| {}, &[RESET], false),
        ("last operation", 0xffff, |_| {}, &[RESET], false),
        (
            "payload shorter than said",
            DATA,
            |p| (p.data, p.len) = (vec![1; 10], 11),
            &[RESET],
            false,
        ),
        (
            "no payload but a length",
            DATA,
            |p| p.len = 1,
            &[RESET],
            false,
        ),
        (
            "length of 4 GiB",
            DATA,
            |p| p.len = u32::MAX,
            &[RESET],
            false,
        ),
        (
            "64 KiB and a byte",
            DATA,
            |p| *p = p.clone().data(&noise(65_537, 1)),
            &[RESET],
            false,
        ),
        (
            "more payload than said",
            DATA,
            |p| (p.data, p.len) = (vec![b'x'; 100], 1),
            &[],
            true,
        ),
        (
            "length on a request for credit",
            CREDIT_REQUEST,
            |p| p.len = u32::MAX,
            &[CREDIT_UPDATE],
            true,
        ),
        (
            "source: the host",
            DATA,
            |p| (p.source_cid, p.data, p.len) = (2, vec![1], 1),
            &[],
            true,
        ),
        (
            "source: another guest",
            RESET,
            |p| p.source_cid = 8,
            &[],
            true,
        ),
        (
            "source: anyone",
            RESET,
            |p| p.source_cid = 0xffff_ffff,
            &[],
            true,
        ),
        (
            "source: high bits",
            RESET,
            |p| p.source_cid = CID | 1 << 32,
            &[],
            true,
        ),
        (
            "destination: another guest",
            RESET,
            |p| p.destination_cid = 8,
            &[],
            true,
        ),
        (
            "destination: itself",
            RESET,
            |p| p.destination_cid = CID,
            &[],
            true,
        ),
        (
            "destination: loopback",
            RESET,
            |p| p.destination_cid = 1,
            &[],
            true,
        ),
        (
            "destination: high bits",
            RESET,
            |p| p.destination_cid = 2 | 1 << 32,
            &[],
            true,
        ),
        ("sequenced packets", DATA, |p| p.kind = 2, &[RESET], true),
        ("type 0", DATA, |p| p.kind = 0, &[RESET], true),
        ("type 0, reset", RESET, |p| p.kind = 0, &[], true),
        (
            "unknown flags on data",
            DATA,
            |p| p.flags = u32::MAX,
            &[],
            true,
        ),
        (
            "unknown flags on shutdown",
            SHUTDOWN,
            |p| p.flags = 0xffff_fffc,
            &[],
            true,
        ),
        (
            "forwarded more than sent",
            CREDIT_UPDATE,
            |p| p.forwarded = 1,
            &[RESET],
            false,
        ),
        (
            "forwarded far more",
            DATA,
            |p| p.forwarded = 1 << 30,
            &[RESET],
            false,
        ),
        ("no window", CREDIT_UPDATE, |p| p.window = 0, &[], true),
        (
            "greatest window",
            CREDIT_UPDATE,
            |p| p.window = u32::MAX,
            &[],
            true,
        ),
    ];
    for (name, operation, change, heard, lives) in rows {
        let (mut guest, service) = Guest::with_service();
        let (port, stream) = guest.join(&service, 600);
        let mut packet = Packet::new(port, 600, *operation);
        change(&mut packet);
        guest.send(&packet);
        assert_eq!(guest.operations(), *heard, "{name}");
        let (bytes, ended) = read_all(&stream);
        assert_eq!(ended, !lives, "{name}: {bytes:?}");
        if *lives {
            guest.send(&Packet::new(port, 600, DATA).data(b"later"));
            assert!(read_all(&stream).0.ends_with(b"later"), "{name}");
        } else {
            assert!(bytes.is_empty(), "{name}");
        }
        assert!(!guest.is_broken(), "{name}");
    }
}

#[test]
fn packets_without_a_connection() {
    let rows: &[(&str, u16, Change, &[u16])] = &[
        (
            "request where nothing is offered",
            REQUEST,
            |p| p.destination = 513,
            &[RESET],
        ),
        (
            "request to no service's port",
            REQUEST,
            |p| p.destination = 22,
            &[RESET],
        ),
        (
            "request to the last port",
            REQUEST,
            |p| p.destination = u32::MAX,
            &[RESET],
        ),
        (
            "request of sequenced packets",
            REQUEST,
            |p| p.kind = 2,
            &[RESET],
        ),
        ("response", RESPONSE, |_| {}, &[RESET]),
        ("reset is not answered", RESET, |_| {}, &[]),
        ("shutdown", SHUTDOWN, |p| p.flags = 3, &[RESET]),
        ("data", DATA, |p| *p = p.clone().data(b"x"), &[RESET]),
        ("data that is not there", DATA, |p| p.len = 5, &[RESET]),
        ("credit update", CREDIT_UPDATE, |_| {}, &[RESET]),
        ("credit request", CREDIT_REQUEST, |_| {}, &[RESET]),
        ("unknown operation", 99, |_| {}, &[RESET]),
        (
            "request for another guest",
            REQUEST,
            |p| p.destination_cid = 9,
            &[],
        ),
        (
            "request in another's name",
            REQUEST,
            |p| p.source_cid = 9,
            &[],
        ),
    ];
    for (name, operation, change, heard) in rows {
        let (mut guest, service) = Guest::with_service();
        let stream = service.offer(600);
        let mut packet = Packet::new(5000, 600, *operation);
        change(&mut packet);
        guest.send(&packet);
        let packets = guest.received();
        let operations: Vec<u16> = packets.iter().map(|p| p.operation).collect();
        assert_eq!(operations, *heard, "{name}");
        for answer in packets {
            assert_eq!(answer.source, packet.destination, "{name}");
            assert_eq!(answer.destination, packet.source, "{name}");
        }
        let source = guest.connect(600).expect("still offered");
        guest.send(&Packet::new(source, 600, DATA).data(b"x"));
        assert_eq!(read_all(&stream), (b"x".to_vec(), false), "{name}");
    }
}

#[test]
fn a_packet_may_be_cut_anywhere_and_a_chain_that_is_none_is_given_back() {
    let (mut guest, service) = Guest::with_service();
    let (port, stream) = guest.join(&service, 600);
    let packet = Packet::new(port, 600, DATA).data(b"hello");
    let bytes = [packet.header(), packet.data.clone()].concat();
    let rows: &[(&str, &[usize], bool)] = &[
        ("one buffer", &[49], true),
        ("header and payload", &[44, 5], true),
        ("header in three", &[1, 42, 1, 5], true),
        ("payload in the header's buffer", &[46, 3], true),
        ("empty buffers", &[0, 44, 0, 5], true),
        ("header cut short", &[43], false),
        ("a byte", &[1], false),
        ("nothing", &[0], false),
    ];
    for (name, cuts, arrives) in rows {
        let used = guest.rings[TX].used;
        guest.queue_bytes(&bytes, cuts);
        guest.run();
        assert_eq!(guest.rings[TX].used, used.wrapping_add(1), "{name}");
        let expected: &[u8] = if *arrives { b"hello" } else { b"" };
        assert_eq!(read_all(&stream), (expected.to_vec(), false), "{name}");
    }
    assert_eq!(guest.operations(), QUIET);
}

#[test]
fn unusable_buffers_for_receiving_are_given_back() {
    for len in [0, 1, 43, 44] {
        let (service, link) = Service::new();
        let manner = Manner {
            rx_buffers: 8,
            rx_len: len,
            ..Manner::default()
        };
        let mut guest = Guest::new(manner, vec![(LinkKind::Rpc, link)]);
        let stream = service.offer(512);
        guest.queue(&Packet::new(1, 512, REQUEST));
        // Eight come back empty and are posted again, larger.
        guest.manner.rx_len = 100;
        guest.run();
        assert_eq!(guest.operations(), [RESPONSE], "{len}");
        write_some(&stream, &[7; 200]);
        guest.run();
        let lengths: Vec<u32> = guest.received().iter().map(|p| p.len).collect();
        assert_eq!(lengths, [56, 56, 56, 32], "{len}");
    }
}

#[test]
fn broken_rings_stop_the_device_until_it_is_reset() {
    for (name, queue, index, head) in [
        ("packets run ahead", TX, 300, 0),
        ("packet head out of range", TX, 1, 256_u16),
        ("buffers run ahead", RX, 500, 0),
    ] {
        let (mut guest, service) = Guest::with_service();
        let (_, stream) = guest.join(&service, 600);
        let available = base(queue) + AVAILABLE;
        let old = guest.rings[queue].available;
        guest.store(available + 4 + 2 * u64::from(old % SIZE), head);
        guest.store(available + 2, old.wrapping_add(index));
        guest.kick(queue);
        write_some(&stream, b"something to send");
        guest.run_without_reading();
        assert!(guest.is_broken(), "{name}");
        assert!(read_all(&stream).1, "{name}: its connections are over");
        guest.restart();
        assert!(!guest.is_broken(), "{name}");
        let (port, stream) = guest.join(&service, 601);
        guest.send(&Packet::new(port, 601, DATA).data(b"again"));
        assert_eq!(read_all(&stream).0, b"again", "{name}");
    }
}

#[test]
fn random_packets_harm_nobody() {
    let (mut guest, service) = Guest::with_service();
    let (bystander, stream) = guest.join(&service, 512);
    let mut state = 0x1234_5678_u32;
    let mut next = |below: u32| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    };
    let mut streams = Vec::new();
    for round in 0..50_000_u32 {
        if round % 16 == 0 {
            let port = 513 + next(4);
            streams.push(service.offer(port));
            if streams.len() > 40 {
                streams.swap_remove(next(40) as usize);
            }
        }
        let operation = u16::try_from(next(9)).expect("small");
        let mut packet = Packet::new(2000 + next(6), 513 + next(4), operation);
        packet.flags = next(5);
        packet.window = [0, 100, 1 << 20, u32::MAX][next(4) as usize];
        packet.forwarded = [0, 0, 0, 1, next(u32::MAX)][next(5) as usize];
        packet.kind = [1, 1, 1, 1, 1, 1, 2][next(7) as usize];
        let len = [0_u32, 1, 100, 5000][next(4) as usize];
        packet.data = vec![0; len as usize];
        packet.len = len + [0, 0, 0, 1][next(4) as usize];
        guest.send(&packet);
        if let Some(stream) = streams.last() {
            read_all(stream);
            write_some(stream, &[1; 50]);
        }
        guest.inbox.clear();
    }
    guest.send(&Packet::new(bystander, 512, DATA).data(b"alive"));
    assert_eq!(read_all(&stream), (b"alive".to_vec(), false));
    assert!(!guest.is_broken());
}
