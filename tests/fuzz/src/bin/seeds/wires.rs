//! Seeds of the streams: a conversation in each direction, behind the byte that says how it is cut.

use casemate_qrexec_wire::{
    self as qrexec, CommandLine, DataFrame, ExecParams, Ident, Message as _, Target, ToAgent,
    ToBroker, Trigger, Version,
};
use casemate_window_wire::{
    self as window, Anchor, Commit, Configure, CursorShape, DamageRect, Format, OutputInfo,
    Position, Request, SlotGrant, ToGuest, ToHost, Window, WindowId, WindowKind,
};

use std::error::Error;

use casemate_sound_wire::{Shape, ToMixer, ToVmm};

use crate::Seed;

/// Length of the pieces.
const PIECE: u8 = 7;

pub(crate) fn all() -> Result<Vec<Seed>, Box<dyn Error>> {
    let mut seeds = vec![
        ("window_to_host", "session", stream(&to_host())?),
        ("window_to_guest", "session", stream(&to_guest())?),
    ];
    for (name, number) in [("version2", 2), ("version3", 3), ("version4", 4)] {
        let version = Version::negotiate(number)?;
        let mut up = vec![0, PIECE];
        for message in to_broker(number)? {
            message.encode(version, &mut up)?;
        }
        seeds.push(("qrexec_frame", name, up));
    }
    for (name, number) in [("data2", 2), ("data3", 3), ("data4", 4)] {
        let frames = data(Version::negotiate(number)?)?;
        seeds.push(("qrexec_frame", name, [vec![2], frames].concat()));
    }
    let mut down = vec![1, PIECE];
    for message in to_agent()? {
        message.encode(Version::OURS, &mut down)?;
    }
    seeds.push(("qrexec_frame", "agent", down));
    seeds.extend(sessions());
    seeds.extend(sound());
    Ok(seeds)
}

/// One message of the mixer's wire each.
fn sound() -> Vec<Seed> {
    let samples = [7; 64];
    let to_mixer = Shape::all().next().into_iter().flat_map(|shape| {
        [
            (
                "begin",
                ToMixer::Begin {
                    run: 1,
                    shape,
                    period: 1920,
                },
            ),
            (
                "play",
                ToMixer::Frames {
                    run: 1,
                    samples: &samples,
                },
            ),
            ("end", ToMixer::End { run: 1 }),
        ]
    });
    let mut seeds = Vec::new();
    for (name, message) in to_mixer {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        seeds.push(("sound_wire", name, bytes));
    }
    for (name, message) in [
        (
            "heard",
            ToVmm::Heard {
                run: 1,
                total: 1920,
                latency: 4,
            },
        ),
        (
            "recorded",
            ToVmm::Frames {
                run: 1,
                latency: 4,
                samples: &samples,
            },
        ),
    ] {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        seeds.push(("sound_wire", name, bytes));
    }
    seeds
}

/// Operations on two sessions: see the module of the target for what each byte means.
fn sessions() -> [Seed; 3] {
    // Both agents say hello and read; one calls, is allowed, both read, report the end.
    let call = |transport: u8| {
        [
            &[transport, 1][..],
            &[0, 4, 132, 4],
            &[7, 9, 139, 9],
            &[3, 2, 65, 5, 0],
            &[7, 9, 139, 9],
            &[4, 0, 136, 0],
        ]
        .concat()
    };
    // Calls of all versions that are refused, an agent that comes again, time, a frame that is none.
    let faults = [
        &[0, 9][..],
        &[0, 2, 3, 0, 65, 6, 0],
        &[0, 3, 3, 1, 66, 7, 9],
        &[0, 4, 3, 2, 67, 1, 5, 0, 6, 0],
        &[0, 4, 9, 0, 9, 1, 7, 9, 10, 0, 8, 255, 4, 9, 3, 7],
        &[0, 4, 2, 3, 255, 255, 255, 8, 1, 2, 1, 0],
    ]
    .concat();
    [
        ("qrexec_session", "link", call(0)),
        ("qrexec_session", "sockets", call(1)),
        ("qrexec_session", "faults", faults),
    ]
}

fn stream<M: window::Message>(messages: &[M]) -> Result<Vec<u8>, window::Malformed> {
    let mut bytes = vec![PIECE];
    messages
        .iter()
        .try_for_each(|message| message.encode(&mut bytes))?;
    Ok(bytes)
}

fn window(id: u32, kind: WindowKind) -> ToHost {
    ToHost::Window(Window {
        id: WindowId(id),
        kind,
        title: "Títle".to_owned(),
        app_id: "foot".to_owned(),
        min_size: (0, 0),
        max_size: (800, 600),
        attention: false,
        wants_fullscreen: true,
    })
}

fn to_host() -> Vec<ToHost> {
    let (id, parent) = (WindowId(3), WindowId(1));
    vec![
        ToHost::Hello {
            magic: window::limits::MAGIC,
            oldest: 1,
            newest: window::limits::VERSION,
        },
        window(1, WindowKind::Toplevel),
        window(2, WindowKind::Dialog { parent }),
        window(3, WindowKind::Popup { parent, grab: true }),
        ToHost::Position(Position {
            id,
            anchor_rect: (-1, 2, 3, 4),
            size: (100, 50),
            anchor: Anchor::BottomLeft,
            gravity: Anchor::TopRight,
            constraints: 0x3f,
            offset: (5, -6),
            token: 7,
        }),
        ToHost::BufferRequest {
            id,
            width: 100,
            height: 50,
            format: Format::Argb8888,
            count: 3,
        },
        ToHost::Commit(Commit {
            id,
            slot: 1,
            generation: 2,
            ack_serial: 3,
            damage: vec![DamageRect {
                x: 1,
                y: 2,
                width: 3,
                height: 4,
            }],
        }),
        ToHost::Cursor {
            shape: CursorShape::Text,
        },
        ToHost::Request {
            id: parent,
            what: Request::Resize,
            serial: 9,
        },
        ToHost::Pong { nonce: 4 },
        ToHost::Unmap { id },
        ToHost::Destroy { id },
    ]
}

fn to_guest() -> Vec<ToGuest> {
    let id = WindowId(1);
    let (code, pressed, serial, time_ms) = (30, true, 5, 600);
    vec![
        ToGuest::Welcome {
            version: 1,
            memory: 64 << 20,
        },
        ToGuest::Output(OutputInfo {
            width: 1280,
            height: 800,
            scale_120: 120,
            refresh_mhz: 60_000,
        }),
        ToGuest::Keymap {
            text: "xkb_keymap {}".to_owned(),
            repeat_delay: 600,
            repeat_rate: 25,
        },
        ToGuest::Configure(Configure {
            id,
            serial,
            width: 640,
            height: 480,
            activated: true,
            maximized: false,
            fullscreen: false,
            suspended: true,
            bounds: (1280, 760),
        }),
        ToGuest::PopupPlaced {
            id,
            serial,
            x: -1,
            y: 2,
            width: 10,
            height: 20,
            token: 3,
        },
        ToGuest::Slots(SlotGrant {
            id,
            generation: 1,
            width: 640,
            height: 480,
            stride: 2560,
            offsets: vec![0, 0x20_0000],
        }),
        ToGuest::Release {
            id,
            generation: 1,
            slot: 0,
        },
        ToGuest::Frame { id, time_ms },
        ToGuest::KeyEnter {
            id,
            held: vec![42, 30],
            modifiers: [1, 0, 2, 0],
        },
        ToGuest::Key {
            code,
            pressed,
            serial,
            time_ms,
        },
        ToGuest::Modifiers {
            masks: [0, 0, 0, 1],
        },
        ToGuest::KeyLeave,
        ToGuest::PointerMotion {
            id,
            x: -256,
            y: 512,
            time_ms,
        },
        ToGuest::PointerButton {
            code: 0x110,
            pressed,
            serial,
            time_ms,
        },
        ToGuest::PointerAxis {
            x: 0,
            y: 15,
            x120: 0,
            y120: 120,
            time_ms,
        },
        ToGuest::PointerLeave,
        ToGuest::Ping { nonce: 8 },
        ToGuest::Close { id },
    ]
}

const PARAMS: ExecParams = ExecParams {
    domain: 4,
    port: 513,
};

fn to_broker(version: u32) -> Result<Vec<ToBroker>, qrexec::Malformed> {
    let claimed = if version >= 4 { "work" } else { "" };
    Ok(vec![
        ToBroker::Hello(version),
        ToBroker::Trigger(Trigger {
            claimed_source: Target::sanitise(claimed.as_bytes()),
            target: Target::sanitise(b"@dispvm:debian-12"),
            ident: Ident::new("SOCKET11")?,
            service: b"qubes.Filecopy+arg".to_vec(),
        }),
        ToBroker::Terminated(PARAMS),
    ])
}

fn to_agent() -> Result<Vec<ToAgent>, qrexec::Malformed> {
    let line = || CommandLine::new(&b"user:QUBESRPC qubes.Filecopy+ work"[..]);
    let ident = Ident::new("SOCKET11")?;
    Ok(vec![
        ToAgent::Hello(4),
        ToAgent::Execute(PARAMS, line()?),
        ToAgent::JustExecute(PARAMS, line()?),
        ToAgent::Connect(PARAMS, ident),
        ToAgent::Refused(ident),
    ])
}

fn data(version: Version) -> Result<Vec<u8>, qrexec::Malformed> {
    let mut bytes = vec![PIECE];
    for frame in [
        DataFrame::Hello(version.number()),
        DataFrame::Stdin(b"to the service"),
        DataFrame::Stdin(b""),
        DataFrame::Stdout(b"from the service"),
        DataFrame::Stderr(b"oh"),
        DataFrame::Stdout(b""),
        DataFrame::ExitCode(-2),
    ] {
        frame.encode(version, &mut bytes)?;
    }
    Ok(bytes)
}
