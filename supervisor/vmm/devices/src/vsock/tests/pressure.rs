//! Floods, stalls and lies about room: what one stream does, the others do not feel.

use super::*;

/// Sends until the connection has no room left; returns how much.
fn fill(guest: &mut Guest, port: u32, to: u32) -> u32 {
    let mut sent = 0_u32;
    loop {
        guest.send(&Packet::new(port, to, CREDIT_REQUEST));
        let answer = guest.received().pop().expect("it answers");
        let room = answer.window - (sent - answer.forwarded);
        if room == 0 {
            return sent;
        }
        let len = room.min(64 << 10);
        guest.send(&Packet::new(port, to, DATA).data(&noise(len as usize, 1)));
        sent += len;
    }
}

#[test]
fn a_service_that_does_not_read_stops_only_its_own_stream() {
    let (mut guest, service) = Guest::with_service();
    let (stalled, stream) = guest.join(&service, 600);
    let (other, lively) = guest.join(&service, 601);
    let sent = fill(&mut guest, stalled, 600);
    assert!(sent >= 256 << 10, "at least its window: {sent}");
    guest.send(&Packet::new(other, 601, DATA).data(b"ping"));
    assert_eq!(read_all(&lively).0, b"ping");
    write_some(&lively, b"pong");
    guest.run();
    assert_eq!(guest.received().remove(0).data, b"pong");
    // Once it reads, the guest hears that there is room again.
    let mut received = 0;
    while received < sent as usize {
        let (bytes, _) = read_all(&stream);
        received += bytes.len();
        guest.run();
    }
    let updates = guest.received();
    let last = updates.last().expect("credit came back");
    assert_eq!((last.operation, last.destination), (CREDIT_UPDATE, stalled));
    assert!(last.window - (sent - last.forwarded) >= last.window * 3 / 4);
}

#[test]
fn more_than_the_window_resets_the_connection() {
    let (mut guest, service) = Guest::with_service();
    let (port, stream) = guest.join(&service, 600);
    fill(&mut guest, port, 600);
    guest.send(&Packet::new(port, 600, DATA).data(b"x"));
    assert_eq!(guest.operations(), [RESET]);
    let mut ended = false;
    while !ended {
        ended = read_all(&stream).1;
    }
}

#[test]
fn a_guest_without_room_is_asked_once_and_told_the_end() {
    let (mut guest, service) = Guest::with_service();
    let stream = service.offer(600);
    guest.send(&Packet::new(9, 600, REQUEST).window(0, 0));
    assert_eq!(guest.operations(), [RESPONSE]);
    for _ in 0..3 {
        write_some(&stream, b"abc");
        guest.run();
    }
    assert_eq!(guest.operations(), [CREDIT_REQUEST], "once for all");
    guest.send(&Packet::new(9, 600, CREDIT_UPDATE).window(0, 0));
    assert_eq!(guest.operations(), QUIET, "no more room, no more asking");
    guest.send(&Packet::new(9, 600, CREDIT_UPDATE).window(4, 0));
    let packets = guest.received();
    assert_eq!(packets[0].data, b"abca");
    assert_eq!(packets[1].operation, CREDIT_REQUEST);
    // A window that shrinks below what is on its way, then grows again.
    guest.send(&Packet::new(9, 600, CREDIT_UPDATE).window(2, 1));
    assert_eq!(guest.operations(), QUIET);
    guest.send(&Packet::new(9, 600, CREDIT_UPDATE).window(2, 4));
    assert_eq!(guest.received()[0].data, b"bc");
    // Without room the guest is told at once that nobody reads, and of the end only behind the data.
    drop(stream);
    guest.run();
    let told = guest.received();
    assert_eq!((told[0].operation, told[0].flags), (SHUTDOWN, NO_RECEIVE));
    guest.send(&Packet::new(9, 600, CREDIT_UPDATE).window(2, 6));
    assert_eq!(guest.received()[0].data, b"ab");
    guest.send(&Packet::new(9, 600, CREDIT_UPDATE).window(1, 8));
    let last = guest.received();
    assert_eq!(last[0].data, b"c");
    assert_eq!(
        (last[1].operation, last[1].flags),
        (SHUTDOWN, NO_RECEIVE | NO_SEND)
    );
}

#[test]
fn streams_take_turns() {
    let manner = Manner {
        rx_buffers: 4,
        ..Manner::default()
    };
    let (service, link) = Service::new();
    let mut guest = Guest::new(manner, vec![(LinkKind::Rpc, link)]);
    let mut streams: Vec<_> = (600..608).map(|to| guest.join(&service, to)).collect();
    let (quiet, control) = streams.pop().expect("eight");
    for (_, stream) in &streams {
        while write_some(stream, &[0; 65_536]) > 0 {}
    }
    guest.run_without_reading();
    write_some(&control, b"urgent");
    guest.run();
    let packets = guest.received();
    let at = packets
        .iter()
        .position(|packet| packet.destination == quiet)
        .expect("it came");
    // The four buffers that were full already, and one turn of each of the others.
    assert!(at <= 4 + streams.len(), "after {at} packets");
    let counts: Vec<usize> = streams
        .iter()
        .map(|(port, _)| {
            packets[4..74]
                .iter()
                .filter(|p| p.destination == *port)
                .count()
        })
        .collect();
    assert!(
        counts.iter().all(|count| (8..=12).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn a_flood_of_requests_waits_in_the_guests_own_queue() {
    let manner = Manner {
        rx_buffers: 0,
        ..Manner::default()
    };
    let (service, link) = Service::new();
    let mut guest = Guest::new(manner, vec![(LinkKind::Rpc, link)]);
    let stream = service.offer(512);
    let mut taken = 0_u32;
    // Without buffers to answer into, the device takes so many and then leaves the rest in the ring.
    for port in 0..10_000_u32 {
        let used = guest.rings[TX].used;
        guest.send(&Packet::new(port, 700, REQUEST));
        if guest.rings[TX].used == used {
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, 256);
    // With buffers, every one of 100000 is refused, and an honest request is heard among them.
    for index in 0..16 {
        guest.post(index);
    }
    guest.run();
    assert_eq!(guest.received().len(), 257);
    for port in 0..100_000_u32 {
        guest.send(&Packet::new(port, 513 + port % 200, REQUEST));
    }
    let answers = guest.received();
    assert_eq!(answers.len(), 100_000);
    assert!(answers.iter().all(|answer| answer.operation == RESET));
    let port = guest.connect(512).expect("it is offered");
    guest.send(&Packet::new(port, 512, DATA).data(b"hi"));
    assert_eq!(read_all(&stream).0, b"hi");
}

/// Two descriptors a connection are more than a process usually may have.
fn allow_many_descriptors() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("own limit");
}

#[test]
fn a_quiet_stream_answers_among_511_that_send_without_end() {
    const BUSY: usize = 510;
    const BUFFERS: u16 = 16;
    allow_many_descriptors();
    let manner = Manner {
        rx_buffers: BUFFERS,
        ..Manner::default()
    };
    let (service, link) = Service::new();
    let mut guest = Guest::new(manner, vec![(LinkKind::Rpc, link)]);
    let busy: Vec<_> = (0..BUSY).map(|_| guest.join(&service, 600)).collect();
    // To the service: one stream whose reader has stalled, and a guest that goes on about it.
    let (stalled, _nobody_reads) = guest.join(&service, 601);
    fill(&mut guest, stalled, 601);
    let (control, handler) = guest.join(&service, 602);
    // To the guest: every other stream has more than the guest takes in this test.
    let flood = |busy: &[(u32, UnixStream)]| {
        for (_, stream) in busy {
            write_some(stream, &[0; 16 << 10]);
        }
    };
    for round in 0..3 {
        flood(&busy);
        for _ in 0..32 {
            guest.queue(&Packet::new(stalled, 601, CREDIT_REQUEST));
        }
        guest.queue(&Packet::new(control, 602, DATA).data(b"call"));
        guest.run_without_reading();
        assert_eq!(read_all(&handler).0, b"call", "round {round}");
        guest.inbox.clear();
        write_some(&handler, b"answer");
        flood(&busy);
        guest.run();
        let answer = |packet: &Packet| packet.destination == control && packet.operation == DATA;
        let before = guest.inbox.iter().position(answer).expect("it came");
        // What was under way, then each of the others at most twice: before the loop has seen the answer, and after.
        let most = usize::from(BUFFERS) + 2 * (BUSY + 1);
        assert!(before <= most, "round {round}: after {before} packets");
        let behind = guest.inbox.len() - before;
        assert!(behind > BUSY, "round {round}: the others had more to say");
    }
}

#[test]
fn connections_and_their_buffers_are_limited() {
    allow_many_descriptors();
    let (mut guest, service) = Guest::with_service();
    let mut streams = Vec::new();
    let mut promised = 0_u64;
    for count in 0..512 {
        streams.push(service.offer(600));
        let port = guest.fresh_port();
        guest.send(&Packet::new(port, 600, REQUEST));
        let answer = guest.received().remove(0);
        assert_eq!(answer.operation, RESPONSE, "connection {count}");
        promised += u64::from(answer.window);
    }
    assert!(promised <= 16 << 20, "{promised}");
    streams.push(service.offer(600));
    assert_eq!(guest.connect(600), None, "one too many");
    // The refused one did not use the offer up; one that goes makes room for it.
    guest.send(&Packet::new(1001, 600, RESET));
    assert!(guest.connect(600).is_some());
    assert_eq!(guest.connect(600), None);
    for port in 1002..1600 {
        guest.send(&Packet::new(port, 600, RESET));
    }
    guest.inbox.clear();
    streams.push(service.offer(600));
    let port = guest.fresh_port();
    guest.send(&Packet::new(port, 600, REQUEST));
    assert_eq!(guest.received()[0].window, 256 << 10, "buffers came back");
}
