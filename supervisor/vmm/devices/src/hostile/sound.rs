//! B3-10: what a sound card must not be asked, and I/O messages that can be none. Row by row: nothing is heard, nothing
//! is recorded, and the next request is answered.

use super::Case;
use super::machine::{BUFFERS, Machine};
use super::target::{SOUND_OK, Target, sound_start};
use crate::fake::{Descriptor, NEXT, WRITE};

const ROW: &str = "B3-10";
const ANSWER: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x2000;
/// Room for much: the second region of memory, 2 MiB.
const LARGE: u64 = 0x20_0000;

const BAD: [u8; 4] = [1, 0x80, 0, 0];
const UNSUPPORTED: [u8; 4] = [2, 0x80, 0, 0];
const IO_ERROR: [u8; 4] = [3, 0x80, 0, 0];

const SET: u32 = 0x101;
const LAST: u32 = u32::MAX;
/// Stereo, S16, 48 kHz.
const SHAPE: u32 = 0x0007_0502;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = requests();
    cases.extend(lives());
    cases.extend(messages(Target::SndTx));
    cases.extend(messages(Target::SndRx));
    cases
}

/// One request that is refused: its words, and the status.
type Row = (&'static str, &'static [u32], [u8; 4]);

fn requests() -> Vec<Case> {
    const ROWS: [Row; 37] = [
        ("nothing", &[], BAD),
        ("code_0", &[0], UNSUPPORTED),
        ("code_last", &[LAST], UNSUPPORTED),
        ("a_status_as_code", &[0x8000], UNSUPPORTED),
        ("an_event_as_code", &[0x1000, 0], UNSUPPORTED),
        ("remap", &[2, 0, 0, 0], UNSUPPORTED),
        ("remap_of_no_jack", &[2, LAST, 0, 0], UNSUPPORTED),
        ("controls", &[0x300, 0, 1, 64], UNSUPPORTED),
        ("control_write", &[0x303, 0], UNSUPPORTED),
        ("jacks_cut", &[1, 0, 1], BAD),
        ("jacks_too_many", &[1, 0, 3, 24], BAD),
        ("jacks_after_the_last", &[1, 2, 1, 24], BAD),
        ("jacks_that_wrap", &[1, LAST, 2, 24], BAD),
        ("jacks_without_end", &[1, 0, LAST, 24], BAD),
        ("jacks_of_4_gib", &[1, 0, 1, LAST], BAD),
        ("streams_too_many", &[0x100, 1, 2, 32], BAD),
        ("streams_that_wrap", &[0x100, LAST, LAST, 32], BAD),
        ("streams_of_65", &[0x100, 0, 1, 65], BAD),
        ("streams_without_room", &[0x100, 0, 2, 64], BAD),
        ("maps_after_the_last", &[0x200, 2, 1, 24], BAD),
        ("maps_without_end", &[0x200, 0, LAST, 0], BAD),
        ("set_cut", &[SET, 0, 2048, 512, 0], BAD),
        ("set_no_stream", &[SET, 2, 2048, 512, 0, SHAPE], BAD),
        ("set_last_stream", &[SET, LAST, 2048, 512, 0, SHAPE], BAD),
        ("set_no_buffer", &[SET, 0, 0, 512, 0, SHAPE], BAD),
        ("set_no_period", &[SET, 0, 2048, 0, 0, SHAPE], BAD),
        ("set_half_a_frame", &[SET, 0, 2056, 514, 0, SHAPE], BAD),
        ("set_period_and_a_half", &[SET, 0, 768, 512, 0, SHAPE], BAD),
        (
            "set_4_gib",
            &[SET, 0, LAST - 511, 512, 0, SHAPE],
            UNSUPPORTED,
        ),
        ("set_one_frame", &[SET, 0, 2048, 4, 0, SHAPE], UNSUPPORTED),
        (
            "set_shared_memory",
            &[SET, 0, 2048, 512, 1, SHAPE],
            UNSUPPORTED,
        ),
        (
            "set_every_feature",
            &[SET, 0, 2048, 512, LAST, SHAPE],
            UNSUPPORTED,
        ),
        (
            "set_no_channel",
            &[SET, 0, 2048, 512, 0, 0x0007_0500],
            UNSUPPORTED,
        ),
        (
            "set_255_channels",
            &[SET, 0, 2048, 512, 0, 0x0007_05ff],
            UNSUPPORTED,
        ),
        (
            "set_format_255",
            &[SET, 0, 2048, 512, 0, 0x0007_ff02],
            UNSUPPORTED,
        ),
        (
            "set_rate_64",
            &[SET, 0, 2048, 512, 0, 0x0040_0502],
            UNSUPPORTED,
        ),
        ("start_of_no_stream", &[0x104, 2], BAD),
    ];
    ROWS.into_iter()
        .map(|(name, words, status)| {
            Case::new(ROW, name, move |machine| {
                let request: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                assert_eq!(ask(machine, &request), status);
            })
            .only(Target::SndControl)
        })
        .collect()
}

/// Commands in an order in which they make no sense: all but the last go well.
fn lives() -> Vec<Case> {
    const SET: usize = 0;
    const PREPARE: usize = 1;
    const START: usize = 2;
    const STOP: usize = 3;
    const RELEASE: usize = 4;
    let rows: [(&str, &[usize]); 12] = [
        ("prepare_without_parameters", &[PREPARE]),
        ("start_without_parameters", &[START]),
        ("stop_without_parameters", &[STOP]),
        ("release_without_parameters", &[RELEASE]),
        ("start_unprepared", &[SET, START]),
        ("stop_unprepared", &[SET, PREPARE, STOP]),
        ("start_twice", &[SET, PREPARE, START, START]),
        ("set_while_running", &[SET, PREPARE, START, SET]),
        ("prepare_while_running", &[SET, PREPARE, START, PREPARE]),
        ("release_while_running", &[SET, PREPARE, START, RELEASE]),
        (
            "prepare_when_stopped",
            &[SET, PREPARE, START, STOP, PREPARE],
        ),
        (
            "release_twice",
            &[SET, PREPARE, START, STOP, RELEASE, RELEASE],
        ),
    ];
    let mut cases = Vec::new();
    for (name, commands) in rows {
        for stream in [0, 1] {
            cases.push(
                Case::new(ROW, format!("{name}_of_{stream}"), move |machine| {
                    let [set, prepare, start] = sound_start(stream);
                    let word = |code: u32| [code, stream].map(u32::to_le_bytes).concat();
                    let all = [set, prepare, start, word(0x105), word(0x103)];
                    let (last, before) = commands.split_last().expect("one at least");
                    for command in before {
                        assert_eq!(ask(machine, &all[*command]), SOUND_OK);
                    }
                    assert_eq!(ask(machine, &all[*last]), BAD);
                })
                .only(Target::SndControl),
            );
        }
    }
    cases
}

/// A request on the queue under attack; the status that answers it.
fn ask(machine: &mut Machine, request: &[u8]) -> [u8; 4] {
    machine.write(BUFFERS, request);
    let len = u32::try_from(request.len()).expect("small");
    machine.offer(&[(BUFFERS, len, NEXT, 1), (ANSWER, 100, WRITE, 0)], &[0]);
    machine.work();
    let (_, _, written) = machine.used_of(0);
    assert_eq!(written, 4);
    machine.read(ANSWER, 4).try_into().expect("four")
}

/// I/O messages that are given back with an error, or without a status when there is no room for one.
fn messages(target: Target) -> Vec<Case> {
    let (stream, samples) = match target {
        Target::SndTx => (0, 0),
        _ => (1, WRITE),
    };
    let message = move |len: u32| {
        vec![
            (BUFFERS, 4, NEXT, 1),
            (LARGE, len, NEXT | samples, 2),
            (STATUS, 8, WRITE, 0),
        ]
    };
    let cut = |mut chain: Vec<Descriptor>, at: usize, len: u32| {
        chain[at].1 = len;
        chain
    };
    let rows: [(&str, u32, Vec<Descriptor>, bool); 12] = [
        ("of_the_other_stream", 1 - stream, message(512), true),
        ("of_no_stream", 2, message(512), true),
        ("of_the_last_stream", LAST, message(512), true),
        ("of_nothing", stream, message(0), true),
        ("of_half_a_frame", stream, message(2), true),
        ("of_a_frame_and_a_half", stream, message(6), true),
        ("over_the_buffer", stream, message(2052), true),
        ("of_2_mib", stream, message(0x20_0000), true),
        ("over_memory", stream, message(0x20_0004), false),
        ("of_4_gib", stream, message(LAST), false),
        ("header_of_3", stream, cut(message(512), 0, 3), true),
        // Then the header is what the samples begin with, or there is none at all: no such stream.
        ("without_a_header", stream, cut(message(512), 0, 0), true),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(name, number, chain, answered)| {
            Case::new(ROW, name, move |machine| {
                machine.write(BUFFERS, &number.to_le_bytes());
                machine.write(STATUS, &[0xee; 8]);
                machine.offer(&chain, &[0]);
                machine.work();
                let (_, _, written) = machine.used_of(target.queue());
                let expected = if answered {
                    (8, IO_ERROR)
                } else {
                    (0, [0xee; 4])
                };
                assert_eq!(written, expected.0);
                assert_eq!(machine.read(STATUS, 4), expected.1);
            })
            .only(target)
        })
        .collect();
    for len in [0, 1, 4, 7] {
        cases.push(
            Case::new(ROW, format!("status_of_{len}"), move |machine| {
                let chain = match target {
                    Target::SndTx => cut(message(512), 2, len),
                    _ => vec![(BUFFERS, 4, NEXT, 1), (STATUS, len, WRITE, 0)],
                };
                machine.offer(&chain, &[0]);
                machine.work();
                assert_eq!(machine.used_of(target.queue()).2, 0);
            })
            .only(target),
        );
    }
    cases
}
