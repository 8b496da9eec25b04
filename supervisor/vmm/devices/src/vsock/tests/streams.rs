//! Bytes both ways, and every order in which a stream can end.

use std::net::Shutdown;

use super::*;

/// A program in the guest that sends `out` and reads until the end, within credit.
struct Program {
    port: u32,
    to: u32,
    out: Vec<u8>,
    sent: usize,
    window: u32,
    received: Vec<u8>,
    host: (u32, u32),
    ended: bool,
}

impl Program {
    fn new(port: u32, to: u32, out: Vec<u8>, window: u32) -> Self {
        Self {
            port,
            to,
            out,
            sent: 0,
            window,
            received: Vec::new(),
            host: (0, 0),
            ended: false,
        }
    }

    fn packet(&self, operation: u16) -> Packet {
        let forwarded = u32::try_from(self.received.len()).expect("small");
        Packet::new(self.port, self.to, operation).window(self.window, forwarded)
    }

    fn take(&mut self, guest: &mut Guest) {
        for packet in guest.received() {
            assert_eq!((packet.source, packet.destination), (self.to, self.port));
            self.host = (packet.window, packet.forwarded);
            match packet.operation {
                DATA => self.received.extend(packet.data),
                SHUTDOWN => self.ended |= packet.flags & NO_SEND != 0,
                CREDIT_UPDATE => {}
                // A reader that keeps up: it tells what it took, below.
                CREDIT_REQUEST => {}
                other => panic!("operation {other}"),
            }
        }
    }

    /// Sends a packet of at most `len` bytes, as far as credit goes; tells its own window either way.
    fn step(&mut self, guest: &mut Guest, len: usize) {
        let sent = u32::try_from(self.sent).expect("small");
        let room = self.host.0 - sent.wrapping_sub(self.host.1);
        let rest = &self.out[self.sent..];
        let len = len.min(rest.len()).min(room as usize);
        let packet = if len > 0 {
            self.packet(DATA).data(&rest[..len])
        } else {
            self.packet(CREDIT_UPDATE)
        };
        self.sent += len;
        guest.send(&packet);
        self.take(guest);
    }
}

/// Runs 8 MiB through an echoing service.
fn echo(manner: Manner, window: u32, packet: usize) {
    const TOTAL: usize = 8 << 20;
    let (service, link) = Service::new();
    let mut guest = Guest::new(manner, vec![(LinkKind::Rpc, link)]);
    let stream = service.offer(512);
    let port = guest.fresh_port();
    guest.send(&Packet::new(port, 512, REQUEST).window(window, 0));
    let response = guest.received().remove(0);
    assert_eq!(response.operation, RESPONSE);
    let mut program = Program::new(port, 512, noise(TOTAL, 9), window);
    program.host = (response.window, response.forwarded);
    let mut held: Vec<u8> = Vec::new();
    let mut turns = 0;
    while program.received.len() < TOTAL {
        program.step(&mut guest, packet);
        held.extend(read_all(&stream).0);
        let count = write_some(&stream, &held);
        held.drain(..count);
        guest.run();
        program.take(&mut guest);
        turns += 1;
        assert!(turns < 100_000, "no progress at {}", program.received.len());
    }
    assert!(program.received == program.out, "the echo differs");
    drop(stream);
    guest.run();
    program.take(&mut guest);
    assert!(program.ended);
}

#[test]
fn eight_mebibytes_there_and_back() {
    echo(Manner::default(), 256 << 10, 60_000);
}

#[test]
fn eight_mebibytes_with_little_credit_and_few_small_buffers() {
    let manner = Manner {
        rx_buffers: 3,
        rx_len: 700,
        ..Manner::default()
    };
    echo(manner, 3000, 4000);
}

#[test]
fn eight_mebibytes_to_a_driver_without_event_indexes() {
    let manner = Manner {
        event_indexes: false,
        ..Manner::default()
    };
    echo(manner, 64 << 10, 64 << 10);
}

/// One thing that happens to a joined stream.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The guest shuts these directions.
    Guest(u32),
    GuestReset,
    GuestSends(&'static str),
    ServiceSends(&'static str),
    ServiceShuts(Shutdown),
    ServiceCloses,
    /// The guest hears exactly these: operation and flags, or data.
    Hears(&'static [(u16, u32)]),
    /// The service reads this, and then the end, or not yet.
    Reads(&'static str, bool),
    /// The service cannot write any more.
    CannotWrite,
    /// The device has forgotten the connection: a packet on it is answered by a reset.
    Gone,
}

const BOTH: u32 = NO_RECEIVE | NO_SEND;

#[test]
fn streams_end_in_every_order() {
    use Step::{
        CannotWrite, Gone, Guest as GuestShuts, GuestReset, GuestSends, Hears, Reads,
        ServiceCloses, ServiceSends, ServiceShuts,
    };
    let rows: &[&[Step]] = &[
        // The guest closes: what it sent arrives, then the end, and it is let go.
        &[
            GuestSends("a"),
            GuestShuts(BOTH),
            Hears(&[(RESET, 0)]),
            Reads("a", true),
            Gone,
        ],
        // In two steps, either way round.
        &[
            GuestShuts(NO_SEND),
            Hears(&[]),
            Reads("", true),
            GuestShuts(NO_RECEIVE),
            Hears(&[(RESET, 0)]),
            Gone,
        ],
        &[
            GuestShuts(NO_RECEIVE),
            Hears(&[]),
            CannotWrite,
            GuestSends("a"),
            Reads("a", false),
            GuestShuts(NO_SEND),
            Hears(&[(RESET, 0)]),
            Reads("", true),
            Gone,
        ],
        // Half-closed by the guest, the service still answers, then closes.
        &[
            GuestSends("q"),
            GuestShuts(NO_SEND),
            Reads("q", true),
            ServiceSends("a"),
            Hears(&[(DATA, 0)]),
            ServiceCloses,
            Hears(&[(SHUTDOWN, BOTH)]),
            GuestReset,
            Hears(&[]),
            Gone,
        ],
        // Half-closed by the service, the guest still answers, then closes.
        &[
            ServiceSends("q"),
            ServiceShuts(Shutdown::Write),
            Hears(&[(DATA, 0), (SHUTDOWN, NO_SEND)]),
            GuestSends("a"),
            Reads("a", false),
            GuestShuts(BOTH),
            Hears(&[(RESET, 0)]),
            Reads("", true),
            Gone,
        ],
        // The service stops reading: the guest is told at its next send.
        &[
            ServiceShuts(Shutdown::Read),
            GuestSends("lost"),
            Hears(&[(SHUTDOWN, NO_RECEIVE)]),
            GuestSends("lost too"),
            Hears(&[]),
            ServiceSends("still"),
            Hears(&[(DATA, 0)]),
            GuestShuts(BOTH),
            Hears(&[(RESET, 0)]),
            Gone,
        ],
        // The service closes with something unread by the guest.
        &[
            ServiceSends("bye"),
            ServiceCloses,
            Hears(&[(DATA, 0), (SHUTDOWN, BOTH)]),
            GuestSends("lost"),
            Hears(&[]),
            GuestReset,
            Hears(&[]),
            Gone,
        ],
        &[
            ServiceCloses,
            Hears(&[(SHUTDOWN, BOTH)]),
            GuestShuts(BOTH),
            Hears(&[(RESET, 0)]),
            Gone,
        ],
        &[
            ServiceShuts(Shutdown::Both),
            Hears(&[(SHUTDOWN, BOTH)]),
            GuestReset,
            Gone,
        ],
        // Resets end it at once, in any state.
        &[GuestReset, Hears(&[]), Reads("", true), Gone],
        &[
            GuestSends("a"),
            GuestReset,
            Hears(&[]),
            Reads("a", true),
            Gone,
        ],
        &[
            GuestShuts(NO_SEND),
            GuestReset,
            Hears(&[]),
            Reads("", true),
            Gone,
        ],
        &[
            GuestShuts(NO_RECEIVE),
            GuestReset,
            Hears(&[]),
            Reads("", true),
            CannotWrite,
            Gone,
        ],
        &[
            ServiceShuts(Shutdown::Write),
            Hears(&[(SHUTDOWN, NO_SEND)]),
            GuestReset,
            Reads("", true),
            Gone,
        ],
        // Shutting twice changes nothing; sending after shutting breaks the rules.
        &[
            GuestShuts(NO_SEND),
            GuestShuts(NO_SEND),
            Hears(&[]),
            GuestShuts(0),
            Hears(&[]),
            GuestShuts(BOTH),
            Hears(&[(RESET, 0)]),
            Gone,
        ],
        &[
            GuestShuts(NO_SEND),
            GuestSends("late"),
            Hears(&[(RESET, 0)]),
            Reads("", true),
            Gone,
        ],
        // After the guest stopped receiving, nothing is sent to it.
        &[
            GuestShuts(NO_RECEIVE),
            ServiceSends("dropped"),
            Hears(&[]),
            ServiceCloses,
            Hears(&[(SHUTDOWN, NO_RECEIVE)]),
            GuestShuts(BOTH),
            Hears(&[(RESET, 0)]),
            Gone,
        ],
    ];
    for (index, row) in rows.iter().enumerate() {
        let (mut guest, service) = Guest::with_service();
        let (port, stream) = guest.join(&service, 600);
        let mut stream = Some(stream);
        for (at, step) in row.iter().enumerate() {
            let place = format!("row {index}, step {at}: {step:?}");
            let packet = |operation| Packet::new(port, 600, operation);
            let open = || stream.as_ref().expect("not closed yet");
            match *step {
                GuestShuts(flags) => guest.send(&packet(SHUTDOWN).flags(flags)),
                GuestReset => guest.send(&packet(RESET)),
                GuestSends(text) => guest.send(&packet(DATA).data(text.as_bytes())),
                ServiceSends(text) => {
                    write_some(open(), text.as_bytes());
                    guest.run();
                }
                ServiceShuts(how) => {
                    open().shutdown(how).expect("a connected stream");
                    guest.run();
                }
                ServiceCloses => {
                    stream = None;
                    guest.run();
                }
                Hears(expected) => {
                    let packets = guest.received();
                    let heard: Vec<_> = packets.iter().map(|p| (p.operation, p.flags)).collect();
                    assert_eq!(heard, expected, "{place}");
                }
                Reads(text, end) => {
                    assert_eq!(read_all(open()), (text.into(), end), "{place}");
                }
                CannotWrite => assert_eq!(write_some(open(), b"x"), 0, "{place}"),
                Gone => {
                    guest.send(&packet(CREDIT_UPDATE));
                    assert_eq!(guest.operations(), [RESET], "{place}");
                }
            }
        }
    }
}

#[test]
fn what_a_guest_sent_before_it_closed_reaches_a_slow_reader() {
    let (mut guest, service) = Guest::with_service();
    let (port, stream) = guest.join(&service, 600);
    // More than the socket between takes: the rest waits in the device.
    let bytes = noise(400_000, 3);
    let mut sent = 0;
    let mut window = (256 << 10, 0);
    loop {
        let room = window.0 - (u32::try_from(sent).expect("small") - window.1);
        let len = (room as usize).min(bytes.len() - sent).min(64 << 10);
        if len == 0 {
            break;
        }
        guest.send(&Packet::new(port, 600, DATA).data(&bytes[sent..sent + len]));
        sent += len;
        for packet in guest.received() {
            window = (packet.window, packet.forwarded);
        }
    }
    assert_eq!(sent, bytes.len(), "the device takes its share");
    guest.send(&Packet::new(port, 600, SHUTDOWN).flags(BOTH));
    assert_eq!(guest.operations(), QUIET, "not yet written out");
    // The guest's patience ends; it forgets the stream and uses the same ports again.
    guest.send(&Packet::new(port, 600, RESET));
    let second = service.offer(600);
    guest.send(&Packet::new(port, 600, REQUEST));
    assert_eq!(guest.operations(), [RESPONSE]);

    let mut received = Vec::new();
    loop {
        let (more, end) = read_all(&stream);
        received.extend(more);
        guest.run();
        if end {
            break;
        }
        assert!(received.len() < bytes.len() + 1);
    }
    assert!(received == bytes, "{} bytes came", received.len());
    assert_eq!(guest.operations(), QUIET, "nobody to tell");
    guest.send(&Packet::new(port, 600, DATA).data(b"new"));
    assert_eq!(read_all(&second), (b"new".to_vec(), false));
}

#[test]
fn a_closed_stream_with_a_stalled_reader_is_let_go_once_it_reads() {
    let (mut guest, service) = Guest::with_service();
    let (port, stream) = guest.join(&service, 600);
    let mut sent = 0_u32;
    // Until the window is full and nothing moves any more.
    let mut window = (256 << 10, 0_u32);
    while window.0 > sent - window.1 {
        let len = (window.0 - (sent - window.1)).min(32 << 10);
        guest.send(&Packet::new(port, 600, DATA).data(&noise(len as usize, 5)));
        sent += len;
        for packet in guest.received() {
            window = (packet.window, packet.forwarded);
        }
    }
    guest.send(&Packet::new(port, 600, SHUTDOWN).flags(BOTH));
    assert_eq!(guest.operations(), QUIET);
    let mut received = 0;
    while received < sent as usize {
        received += read_all(&stream).0.len();
        guest.run();
    }
    assert_eq!(guest.operations(), [RESET]);
    assert_eq!(read_all(&stream), (vec![], true));
}
