//! Offers: made, replaced, taken back, taken; and services that misuse their link or lose it.

use std::os::fd::OwnedFd;

use casemate_link::Error as LinkError;

use super::*;

/// Whether the vmm has let go of the other end of a link.
fn is_dropped(link: &PacketSocket) -> bool {
    link.set_nonblocking(true).expect("non-blocking");
    matches!(link.receive(1), Err(LinkError::Closed))
}

#[test]
fn an_offer_serves_one_connection() {
    let (mut guest, service) = Guest::with_service();
    assert_eq!(guest.connect(512), None);
    let first = service.offer(512);
    let port = guest.connect(512).expect("it is offered");
    assert_eq!(guest.connect(512), None, "it was used up");
    let second = service.offer(512);
    let other = guest.connect(512).expect("it is offered again");
    for (port, stream, text) in [(port, &first, b"one"), (other, &second, b"two")] {
        guest.send(&Packet::new(port, 512, DATA).data(text));
        assert_eq!(read_all(stream).0, text);
    }
}

#[test]
fn offers_are_replaced_withdrawn_and_die() {
    let (mut guest, service) = Guest::with_service();
    let old = service.offer(512);
    let new = service.offer(512);
    let port = guest.connect(512).expect("it is offered");
    guest.send(&Packet::new(port, 512, DATA).data(b"x"));
    assert_eq!(read_all(&old), (vec![], true), "let go");
    assert_eq!(read_all(&new).0, b"x");

    let withdrawn = service.offer(513);
    let message = LinkMessage::Withdraw { port: 513 }.encode();
    service.link.send(&message, &[]).expect("the link takes it");
    service
        .link
        .send(&message, &[])
        .expect("twice is no offence");
    assert_eq!(guest.connect(513), None);
    assert!(read_all(&withdrawn).1);

    drop(service.offer(514));
    assert_eq!(guest.connect(514), None, "nobody is there");

    let last_words = service.offer(515);
    write_some(&last_words, b"bye");
    drop(last_words);
    guest.connect(515).expect("there is something to hear");
    let packets = guest.received();
    assert_eq!(packets[0].data, b"bye");
    let last = packets.last().expect("the end");
    assert_eq!(
        (last.operation, last.flags),
        (SHUTDOWN, NO_RECEIVE | NO_SEND)
    );
}

#[test]
fn a_cut_ends_the_connections_of_its_port_and_the_unused_offer() {
    let (mut guest, service) = Guest::with_service();
    let (cut, stream) = guest.join(&service, 600);
    let (other, other_stream) = guest.join(&service, 601);
    let unused = service.offer(600);
    write_some(&stream, b"never heard");
    let message = LinkMessage::Cut { port: 600 }.encode();
    service.link.send(&message, &[]).expect("the link takes it");
    service
        .link
        .send(&message, &[])
        .expect("twice is no offence");
    guest.run();
    let packets = guest.received();
    let of_cut: Vec<_> = packets
        .iter()
        .filter(|packet| packet.destination == cut)
        .collect();
    assert_eq!(of_cut.last().expect("it is told").operation, RESET);
    assert!(read_all(&stream).1, "the service sees the end");
    assert!(read_all(&unused).1, "the offer is gone, too");
    assert_eq!(guest.connect(600), None);
    guest.send(&Packet::new(other, 601, DATA).data(b"on"));
    assert_eq!(read_all(&other_stream).0, b"on", "another port's goes on");
    guest.send(&Packet::new(cut, 600, DATA).data(b"late"));
    assert_eq!(guest.operations(), [RESET]);
}

#[test]
fn an_offer_counts_from_the_moment_it_was_sent() {
    let (mut guest, service) = Guest::with_service();
    guest.run();
    let _stream = service.offer(700);
    let port = guest.fresh_port();
    guest.queue(&Packet::new(port, 700, REQUEST));
    // The loop has not come to the link yet.
    guest.run_tx_only();
    guest.run();
    assert_eq!(guest.operations(), [RESPONSE]);
}

#[test]
fn each_service_has_its_own_ports() {
    let rows = [
        (LinkKind::Rpc, 511, false),
        (LinkKind::Rpc, 512, true),
        (LinkKind::Rpc, 768, true),
        (LinkKind::Rpc, 769, false),
        (LinkKind::Windows, 768, false),
        (LinkKind::Windows, 769, true),
        (LinkKind::Windows, 770, false),
        (LinkKind::Windows, 512, false),
        (LinkKind::Rpc, 0, false),
        (LinkKind::Rpc, u32::MAX, false),
    ];
    for (kind, port, allowed) in rows {
        let (service, link) = Service::new();
        let mut guest = Guest::new(Manner::default(), vec![(kind, link)]);
        let _stream = service.offer(port);
        guest.run();
        assert_eq!(is_dropped(&service.link), !allowed, "{kind:?} {port}");
        assert_eq!(guest.connect(port).is_some(), allowed, "{kind:?} {port}");
    }
}

#[test]
fn a_service_that_misuses_its_link_loses_it_and_its_offers() {
    let offer = LinkMessage::Offer { port: 600 }.encode();
    let pipe = || -> OwnedFd { std::io::pipe().expect("a pipe").0.into() };
    let datagram = || -> OwnedFd {
        let (one, _) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        one.into()
    };
    let packets = || -> OwnedFd { PacketSocket::pair().expect("a pair").0.into() };
    let stream = || -> OwnedFd { UnixStream::pair().expect("a pair").0.into() };
    let internet = || -> OwnedFd {
        std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a socket")
            .into()
    };
    let rows: Vec<(&str, Vec<u8>, Vec<OwnedFd>)> = vec![
        ("too short", offer[..7].to_vec(), vec![stream()]),
        ("too long", [&offer[..], &[0]].concat(), vec![stream()]),
        ("unknown operation", vec![4, 0, 0, 0, 88, 2, 0, 0], vec![]),
        ("no descriptor", offer.to_vec(), vec![]),
        ("two descriptors", offer.to_vec(), vec![stream(), stream()]),
        ("a pipe", offer.to_vec(), vec![pipe()]),
        ("a datagram socket", offer.to_vec(), vec![datagram()]),
        ("a packet socket", offer.to_vec(), vec![packets()]),
        ("not a local socket", offer.to_vec(), vec![internet()]),
        (
            "cuts another's",
            LinkMessage::Cut { port: 769 }.encode().to_vec(),
            vec![],
        ),
        (
            "withdraws another's",
            LinkMessage::Withdraw { port: 769 }.encode().to_vec(),
            vec![],
        ),
    ];
    for (name, bytes, descriptors) in rows {
        let (mut guest, service) = Guest::with_service();
        let (port, live) = guest.join(&service, 601);
        let unused = service.offer(602);
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        service.link.send(&bytes, &descriptors).expect("sent");
        guest.run();
        assert!(is_dropped(&service.link), "{name}");
        assert!(read_all(&unused).1, "{name}: its offers are gone");
        assert_eq!(guest.connect(602), None, "{name}");
        guest.send(&Packet::new(port, 601, DATA).data(b"x"));
        assert_eq!(read_all(&live).0, b"x", "{name}: live streams stay");

        let (again, link) = Service::new();
        guest.handle.attach_link(LinkKind::Rpc, link);
        guest.run();
        guest.join(&again, 602);
    }
}

#[test]
fn a_new_link_replaces_the_old_one() {
    let (mut guest, old) = Guest::with_service();
    let (port, live) = guest.join(&old, 601);
    let unused = old.offer(602);
    guest.run();
    let (new, link) = Service::new();
    let fresh = new.offer(603);
    guest.handle.attach_link(LinkKind::Rpc, link);
    guest.run();
    assert!(is_dropped(&old.link));
    assert!(read_all(&unused).1);
    assert_eq!(guest.connect(602), None);
    let other = guest.connect(603).expect("the new service offers it");
    guest.send(&Packet::new(other, 603, DATA).data(b"new"));
    assert_eq!(read_all(&fresh).0, b"new");
    guest.send(&Packet::new(port, 601, DATA).data(b"x"));
    assert_eq!(read_all(&live).0, b"x");
    // The other kind of link is another matter.
    let (windows, link) = Service::new();
    guest.handle.attach_link(LinkKind::Windows, link);
    guest.run();
    guest.join(&windows, 769);
    guest.join(&new, 604);
}

#[test]
fn only_the_newest_of_links_attached_at_once_is_kept() {
    let mut guest = Guest::new(Manner::default(), Vec::new());
    let (services, links): (Vec<_>, Vec<_>) = (0..3).map(|_| Service::new()).unzip();
    for link in links {
        guest.handle.attach_link(LinkKind::Rpc, link);
    }
    guest.run();
    let dropped: Vec<bool> = services.iter().map(|s| is_dropped(&s.link)).collect();
    assert_eq!(dropped, [true, true, false]);
}

#[test]
fn a_service_that_goes_leaves_its_streams() {
    let (mut guest, service) = Guest::with_service();
    let (port, live) = guest.join(&service, 601);
    let unused = service.offer(602);
    drop(service);
    guest.run();
    assert!(read_all(&unused).1);
    assert_eq!(guest.connect(602), None);
    guest.send(&Packet::new(port, 601, DATA).data(b"x"));
    write_some(&live, b"y");
    guest.run();
    assert_eq!(read_all(&live).0, b"x");
    assert_eq!(guest.received()[0].data, b"y");
}

#[test]
fn a_reset_of_the_device_ends_streams_and_keeps_offers() {
    let (mut guest, service) = Guest::with_service();
    let (_, live) = guest.join(&service, 601);
    let unused = service.offer(602);
    guest.run();
    guest.restart();
    assert!(read_all(&live).1);
    let port = guest.connect(602).expect("still offered");
    guest.send(&Packet::new(port, 602, DATA).data(b"x"));
    assert_eq!(read_all(&unused).0, b"x");
    guest.join(&service, 603);
}

#[test]
fn events_that_mean_nothing_are_ignored() {
    let (mut guest, service) = Guest::with_service();
    let (port, live) = guest.join(&service, 601);
    let hung_up = Ready {
        hung_up: true,
        ..Ready::default()
    };
    for token in [0, 1, 2, 3, 4, 5, 15, 17, 500, 5000, u32::MAX] {
        for ready in [Ready::READABLE, Ready::WRITABLE, hung_up] {
            guest.ready(token, ready);
        }
    }
    // Also of the place of a connection: events of the one that had it before.
    for ready in [Ready::READABLE, Ready::WRITABLE, hung_up] {
        guest.ready(16, ready);
    }
    guest.send(&Packet::new(port, 601, DATA).data(b"x"));
    assert_eq!(read_all(&live), (b"x".to_vec(), false));
    assert_eq!(write_some(&live, b"y"), 1);
    guest.run();
    assert_eq!(guest.operations(), [DATA]);
}

#[test]
fn context_ids_of_guests_only() {
    for (cid, valid) in [
        (0, false),
        (1, false),
        (2, false),
        (3, true),
        (u32::MAX, false),
    ] {
        assert_eq!(GuestCid::new(cid).is_ok(), valid, "{cid}");
    }
    let (guest, _) = Guest::with_service();
    let mut cid = [0; 8];
    lock(&guest.device).read_config(0, &mut cid);
    assert_eq!(u64::from_le_bytes(cid), CID);
}
