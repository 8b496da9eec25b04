//! A line with a sound server that only keeps what it was asked.
#![expect(clippy::panic, reason = "tests")]
use casemate_sound_wire::{Channels, Format, Rate};

use super::*;

/// A sound server that keeps what it was asked.
#[derive(Debug, Default)]
struct Double(Vec<Option<Sound>>);

impl Host for Double {
    fn open(&mut self, sound: Sound) {
        self.0.push(Some(sound));
    }

    fn close(&mut self) {
        self.0.push(None);
    }
}

const STEREO: Shape = Shape {
    format: Format::S16,
    rate: Rate::Hz48000,
    channels: Channels::Stereo,
};

struct Bench {
    line: Line,
    host: Double,
}

impl Bench {
    fn new(direction: Direction) -> Self {
        Self {
            line: Line::new(direction),
            host: Double::default(),
        }
    }

    fn say(&mut self, message: ToMixer<'_>) -> Result<bool, Wrong> {
        let mut packet = Vec::new();
        message.encode(&mut packet);
        self.line.receive(&packet, &mut self.host)
    }

    fn begin(&mut self, run: u32, shape: Shape) -> Result<bool, Wrong> {
        let period = shape.frame_bytes() * 480;
        self.say(ToMixer::Begin { run, shape, period })
    }

    /// What is drawn, in floats.
    fn draw(&mut self, floats: usize) -> Vec<f32> {
        let mut bytes = vec![0xFF; floats * FLOAT];
        self.line.draw(&mut bytes);
        let (floats, rest) = bytes.as_chunks::<FLOAT>();
        assert!(rest.is_empty());
        floats.iter().map(|it| f32::from_le_bytes(*it)).collect()
    }

    fn heard(&self) -> Option<(u32, u64, u32)> {
        let packet = self.line.heard(0.5)?;
        match ToVmm::decode(&packet) {
            Ok(ToVmm::Heard {
                run,
                total,
                latency,
            }) => Some((run, total, latency)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_played_is_drawn_once_and_then_silence() {
    let mut bench = Bench::new(Direction::Play);
    assert_eq!(bench.draw(2), [0.0, 0.0], "before any run");
    assert_eq!(bench.begin(7, STEREO), Ok(true));
    assert_eq!(bench.heard(), Some((7, 0, 96_000)));
    let samples = [0, 0x40, 0, 0xC0, 0, 0x20, 0, 0xE0];
    assert_eq!(
        bench.say(ToMixer::Frames {
            run: 7,
            samples: &samples
        }),
        Ok(false)
    );
    assert_eq!(bench.draw(2), [0.5, -0.5]);
    assert_eq!(bench.heard(), Some((7, 4, 96_000)));
    assert_eq!(bench.draw(4), [0.25, -0.25, 0.0, 0.0]);
    assert_eq!(
        bench.heard(),
        Some((7, 8, 96_000)),
        "silence is not the VM's"
    );
    let sound = Sound {
        rate: Rate::Hz48000,
        channels: Channels::Stereo,
    };
    assert_eq!(bench.host.0, [Some(sound)]);
}

#[test]
fn what_was_not_heard_of_a_run_ends_with_it() {
    let mut bench = Bench::new(Direction::Play);
    bench.begin(1, STEREO).unwrap();
    let samples = [1; 8];
    bench
        .say(ToMixer::Frames {
            run: 1,
            samples: &samples,
        })
        .unwrap();
    bench.begin(2, STEREO).unwrap();
    assert_eq!(bench.draw(2), [0.0, 0.0]);
    // Of the run before, and of one that never was.
    for run in [1, 3] {
        bench
            .say(ToMixer::Frames {
                run,
                samples: &samples,
            })
            .unwrap();
        bench.say(ToMixer::End { run }).unwrap();
    }
    assert_eq!(bench.draw(2), [0.0, 0.0]);
    assert_eq!(bench.heard(), Some((2, 0, 96_000)));
    bench.say(ToMixer::End { run: 2 }).unwrap();
    assert_eq!(bench.heard(), None);
    assert_eq!(bench.host.0.last(), Some(&None));
    assert_eq!(bench.begin(2, STEREO), Err(Wrong::OldRun(2)));
}

#[test]
fn a_flood_costs_a_bounded_memory_and_the_oldest_sound() {
    let mut bench = Bench::new(Direction::Play);
    bench.begin(1, STEREO).unwrap();
    let packet = |value: u8| vec![value; MAX_FRAMES];
    let packets = u64::from(MAX_AHEAD) / MAX_FRAMES as u64;
    bench
        .say(ToMixer::Frames {
            run: 1,
            samples: &packet(0),
        })
        .unwrap();
    for _ in 0..packets {
        bench
            .say(ToMixer::Frames {
                run: 1,
                samples: &packet(0x40),
            })
            .unwrap();
    }
    let waiting = bench.line.run.as_ref().map(|run| run.waiting.len());
    assert_eq!(waiting, Some(MAX_AHEAD as usize));
    assert_eq!(bench.heard().map(|it| it.1), Some(MAX_FRAMES as u64));
    assert!(
        bench.draw(2).iter().all(|it| *it > 0.4),
        "the first packet is lost"
    );
}

#[test]
fn a_line_ends_with_what_is_not_of_the_wire() {
    let mut bench = Bench::new(Direction::Play);
    bench.begin(1, STEREO).unwrap();
    assert_eq!(
        bench.say(ToMixer::Frames {
            run: 1,
            samples: &[0; 6]
        }),
        Err(Wrong::HalfFrame(6))
    );
    let garbage = bench.line.receive(&[9; 16], &mut bench.host);
    assert!(matches!(garbage, Err(Wrong::Malformed(_))), "{garbage:?}");
    let mut bench = Bench::new(Direction::Record);
    assert_eq!(bench.begin(1, STEREO), Ok(false), "nothing is heard here");
    assert_eq!(
        bench.say(ToMixer::Frames {
            run: 1,
            samples: &[0; 4]
        }),
        Err(Wrong::Direction)
    );
}

#[test]
fn what_is_recorded_goes_in_whole_frames_while_there_is_a_run() {
    let mut bench = Bench::new(Direction::Record);
    let floats: Vec<u8> = [0.5_f32, -0.5]
        .repeat(5000)
        .iter()
        .flat_map(|it| it.to_le_bytes())
        .collect();
    assert!(bench.line.recorded(&floats, 0.0).is_empty());
    for format in Format::ALL {
        let shape = Shape { format, ..STEREO };
        let run = bench.line.last.unwrap_or(0) + 1;
        bench.begin(run, shape).unwrap();
        let mut total = 0;
        for packet in bench.line.recorded(&floats, 0.001) {
            let Ok(ToVmm::Frames {
                run: of,
                latency,
                samples,
            }) = ToVmm::decode(&packet)
            else {
                panic!("{packet:?}");
            };
            assert_eq!((of, latency), (run, 48 * shape.frame_bytes()));
            assert!(samples.len().is_multiple_of(shape.frame_bytes() as usize));
            total += samples.len();
        }
        assert_eq!(total, 5000 * shape.frame_bytes() as usize);
        bench.say(ToMixer::End { run }).unwrap();
        assert!(bench.line.recorded(&floats, 0.0).is_empty());
    }
}

#[test]
fn a_server_may_tell_any_delay() {
    for (delay, bytes) in [
        (f64::NAN, 0),
        (f64::INFINITY, 0),
        (-1.0, 0),
        (1.0e9, 5 * 192_000),
        (0.25, 48_000),
    ] {
        assert_eq!(latency(STEREO, delay), bytes, "{delay}");
    }
}
