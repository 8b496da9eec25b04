//! The life of a stream: every command in every state.

use super::*;

const COMMANDS: [u32; 5] = [SET, PREPARE, START, STOP, RELEASE];

/// Which state each command leads to, by the state it is given in: unset, set, prepared, running, stopped, released.
const TABLE: [[Option<usize>; 5]; 6] = [
    [Some(1), None, None, None, None],
    [Some(1), Some(2), None, None, None],
    [Some(1), Some(2), Some(3), None, Some(5)],
    [None, None, None, Some(4), None],
    [None, None, Some(3), None, Some(5)],
    [Some(1), Some(2), None, None, None],
];

fn command(guest: &mut Guest, stream: u32, command: u32) -> u32 {
    if command == SET {
        guest.set(stream, BUFFER, PERIOD, [2, 5, 7])
    } else {
        guest.status(&[command, stream])
    }
}

#[test]
fn every_list_of_five_commands_goes_as_the_table_says() {
    for stream in [0, 1] {
        for list in 0..COMMANDS.len().pow(5) {
            let mut guest = Guest::new(true, None);
            let (mut state, mut rest) = (0, list);
            for _ in 0..5 {
                let choice = rest % COMMANDS.len();
                rest /= COMMANDS.len();
                let expected = TABLE[state][choice];
                let status = command(&mut guest, stream, COMMANDS[choice]);
                assert_eq!(status == OK, expected.is_some(), "list {list}");
                assert!(status == OK || status == BAD);
                state = expected.unwrap_or(state);
            }
        }
    }
}

#[test]
fn messages_are_taken_only_while_the_stream_is_prepared() {
    let mut guest = Guest::new(true, None);
    let data = samples(0, PERIOD);
    let refused = |guest: &mut Guest| {
        guest.play(0, &data);
        let back = guest.back(TX);
        assert_eq!(back.len(), 1);
        assert_eq!((back[0].status, back[0].written), (IO_ERROR, 8));
    };
    refused(&mut guest);
    command(&mut guest, 0, SET);
    refused(&mut guest);
    command(&mut guest, 0, PREPARE);
    guest.play(0, &data);
    command(&mut guest, 0, START);
    guest.play(1, &data);
    command(&mut guest, 0, STOP);
    guest.play(2, &data);
    assert_eq!(guest.back(TX), [], "they wait");
    assert_eq!(command(&mut guest, 0, RELEASE), OK);
    let slots: Vec<u16> = guest.back(TX).iter().map(|back| back.slot).collect();
    assert_eq!(slots, [0, 1, 2]);
    refused(&mut guest);
}

#[test]
fn a_release_waits_for_what_was_queued_before_it() {
    let mut guest = Guest::new(false, None);
    command(&mut guest, 0, SET);
    command(&mut guest, 0, PREPARE);
    // Queued, and the device not told of it.
    let at = slot_at(TX, 0);
    guest.write(at, &[0; 4]);
    let chain = [(at, 4 + PERIOD, NEXT, 1), (at + STATUS_AT, 8, WRITE, 0)];
    guest.activated.offer(TX, &chain, &[0]);
    assert_eq!(command(&mut guest, 0, RELEASE), OK);
    assert_eq!(guest.new_used(TX), [(0, 8)]);
    assert_eq!(guest.word(at + STATUS_AT), OK);
}

#[test]
fn a_new_beginning_gives_back_what_waited() {
    for again in [SET, PREPARE] {
        let mut guest = Guest::new(false, None);
        command(&mut guest, 0, SET);
        command(&mut guest, 0, PREPARE);
        guest.play(3, &samples(0, PERIOD));
        assert_eq!(command(&mut guest, 0, again), OK);
        assert_eq!(guest.back(TX).len(), 1);
    }
}

#[test]
fn messages_that_can_be_none_are_refused_and_the_next_is_played() {
    let mut guest = Guest::new(true, None);
    guest.start(0);
    let good = samples(0, PERIOD);
    for (name, stream, len) in [
        ("no samples", 0, 0),
        ("half a frame", 0, 2),
        ("a frame and a half", 0, 6),
        ("more than the buffer", 0, BUFFER + 4),
        ("of the other stream", 1, PERIOD),
        ("of no stream", 2, PERIOD),
        ("of the last number", u32::MAX, PERIOD),
    ] {
        guest.queue(TX, 0, stream, &samples(0, len));
        let back = guest.back(TX);
        assert_eq!(back.len(), 1, "{name}");
        assert_eq!((back[0].status, back[0].written), (IO_ERROR, 8), "{name}");
    }
    // No header, no room for a status, a status in the wrong place.
    let at = slot_at(TX, 0);
    for (name, chain, written) in [
        ("nothing", vec![(at, 0, 0, 0)], 0),
        (
            "a short header",
            vec![(at, 3, NEXT, 1), (at + STATUS_AT, 8, WRITE, 0)],
            8,
        ),
        ("no status", vec![(at, 4 + PERIOD, 0, 0)], 0),
        (
            "half a status",
            vec![(at, 4 + PERIOD, NEXT, 1), (at + STATUS_AT, 7, WRITE, 0)],
            0,
        ),
        ("only a status", vec![(at, 8, WRITE, 0)], 8),
        (
            "samples outside",
            vec![
                (at, 4, NEXT, 1),
                (1 << 40, PERIOD, NEXT, 2),
                (at + STATUS_AT, 8, WRITE, 0),
            ],
            0,
        ),
    ] {
        guest.activated.offer(TX, &chain, &[0]);
        guest.activated.kick(TX);
        guest.rest();
        assert_eq!(guest.new_used(TX), [(0, written)], "{name}");
    }
    guest.play(0, &good);
    assert_eq!(guest.back(TX), []);
    guest.pass(10);
    assert_eq!(guest.back(TX).len(), 1);
}

#[test]
fn a_status_in_pieces_is_written_whole() {
    let mut guest = Guest::new(false, None);
    guest.start(0);
    let at = slot_at(TX, 0);
    guest.write(at, &0_u32.to_le_bytes());
    let chain = [
        (at, 1, NEXT, 1),
        (at + 1, 3, NEXT, 2),
        (at + 0x100, PERIOD, NEXT, 3),
        (at + 0x2000, 3, WRITE | NEXT, 4),
        (at + 0x2800, 5, WRITE, 0),
    ];
    guest.activated.offer(TX, &chain, &[0]);
    guest.activated.kick(TX);
    guest.pass(10);
    assert_eq!(guest.new_used(TX), [(0, 8)]);
    assert_eq!(guest.read(at + 0x2000, 3), OK.to_le_bytes()[..3]);
    assert_eq!(guest.read(at + 0x2800, 5), [0; 5]);
}
