//! Every message survives the wire; nothing else does.

use casemate_window_wire::{
    Anchor, Commit, Configure, CursorShape, DamageRect, Decoder, Format, Header, Malformed,
    Message, OutputInfo, Position, Request, SlotGrant, ToGuest, ToHost, Window, WindowId,
    WindowKind, limits,
};
use proptest::prelude::*;

fn id() -> impl Strategy<Value = WindowId> {
    any::<u32>().prop_map(WindowId)
}

fn anchor() -> impl Strategy<Value = Anchor> {
    prop::sample::select(vec![
        Anchor::None,
        Anchor::Top,
        Anchor::Bottom,
        Anchor::Left,
        Anchor::Right,
        Anchor::TopLeft,
        Anchor::BottomLeft,
        Anchor::TopRight,
        Anchor::BottomRight,
    ])
}

fn window() -> impl Strategy<Value = Window> {
    let kind = prop_oneof![
        Just(WindowKind::Toplevel),
        id().prop_map(|parent| WindowKind::Dialog { parent }),
        (id(), any::<bool>()).prop_map(|(parent, grab)| WindowKind::Popup { parent, grab }),
    ];
    let size = || (0..=100u32, 0..=100u32);
    (
        id(),
        kind,
        "\\PC{0,60}",
        "[a-z.]{0,64}",
        size(),
        any::<[bool; 3]>(),
    )
        .prop_map(|(id, kind, title, app_id, min_size, flags)| Window {
            id,
            kind,
            title,
            app_id,
            min_size,
            max_size: if flags[2] {
                (0, 0)
            } else {
                (min_size.0 + 1, min_size.1)
            },
            attention: flags[0],
            wants_fullscreen: flags[1],
        })
}

fn position() -> impl Strategy<Value = Position> {
    let offset = || -limits::MAX_OFFSET..=limits::MAX_OFFSET;
    let extent = || 1..=limits::MAX_EXTENT;
    (
        id(),
        (offset(), offset(), extent(), extent()),
        (extent(), extent()),
        (anchor(), anchor(), 0..=0x3fu8),
        (offset(), offset()),
        any::<u32>(),
    )
        .prop_map(
            |(id, anchor_rect, size, (anchor, gravity, constraints), offset, token)| Position {
                id,
                anchor_rect,
                size,
                anchor,
                gravity,
                constraints,
                offset,
                token,
            },
        )
}

fn commit() -> impl Strategy<Value = Commit> {
    let rect = any::<[u32; 4]>().prop_map(|[x, y, width, height]| DamageRect {
        x,
        y,
        width,
        height,
    });
    (
        id(),
        0..limits::MAX_SLOTS,
        any::<[u32; 2]>(),
        prop::collection::vec(rect, 0..=limits::MAX_DAMAGE),
    )
        .prop_map(|(id, slot, [generation, ack_serial], damage)| Commit {
            id,
            slot,
            generation,
            ack_serial,
            damage,
        })
}

fn to_host() -> impl Strategy<Value = ToHost> {
    let request = prop::sample::select(vec![
        Request::Move,
        Request::Resize,
        Request::Minimize,
        Request::Maximize,
        Request::Activate,
    ]);
    prop_oneof![
        any::<(u32, u16, u16)>().prop_map(|(magic, oldest, newest)| ToHost::Hello {
            magic,
            oldest,
            newest
        }),
        window().prop_map(ToHost::Window),
        position().prop_map(ToHost::Position),
        (id(), 1..=8192u32, 1..=8192u32, any::<bool>(), 1..=4u8).prop_map(
            |(id, width, height, alpha, count)| ToHost::BufferRequest {
                id,
                width,
                height,
                format: if alpha {
                    Format::Argb8888
                } else {
                    Format::Xrgb8888
                },
                count,
            }
        ),
        commit().prop_map(ToHost::Commit),
        id().prop_map(|id| ToHost::Unmap { id }),
        id().prop_map(|id| ToHost::Destroy { id }),
        prop::sample::select(vec![
            CursorShape::Default,
            CursorShape::Text,
            CursorShape::Hidden
        ])
        .prop_map(|shape| ToHost::Cursor { shape }),
        (id(), request, any::<u32>()).prop_map(|(id, what, serial)| ToHost::Request {
            id,
            what,
            serial
        }),
        any::<u32>().prop_map(|nonce| ToHost::Pong { nonce }),
    ]
}

fn configure() -> impl Strategy<Value = Configure> {
    (id(), any::<[u32; 5]>(), any::<[bool; 4]>()).prop_map(|(id, numbers, flags)| Configure {
        id,
        serial: numbers[0],
        width: numbers[1],
        height: numbers[2],
        activated: flags[0],
        maximized: flags[1],
        fullscreen: flags[2],
        suspended: flags[3],
        bounds: (numbers[3], numbers[4]),
    })
}

fn to_guest() -> impl Strategy<Value = ToGuest> {
    let code = || 0..=limits::MAX_CODE;
    prop_oneof![
        any::<(u16, u64)>().prop_map(|(version, memory)| ToGuest::Welcome { version, memory }),
        any::<[u32; 4]>().prop_map(|[width, height, scale_120, refresh_mhz]| {
            ToGuest::Output(OutputInfo {
                width,
                height,
                scale_120,
                refresh_mhz,
            })
        }),
        ("\\PC{0,200}", any::<[u32; 2]>()).prop_map(|(text, [repeat_delay, repeat_rate])| {
            ToGuest::Keymap {
                text,
                repeat_delay,
                repeat_rate,
            }
        }),
        configure().prop_map(ToGuest::Configure),
        (id(), any::<[u32; 4]>(), any::<[i32; 2]>()).prop_map(|(id, numbers, [x, y])| {
            ToGuest::PopupPlaced {
                id,
                serial: numbers[0],
                x,
                y,
                width: numbers[1],
                height: numbers[2],
                token: numbers[3],
            }
        }),
        (
            id(),
            any::<[u32; 4]>(),
            prop::collection::vec(any::<u64>(), 0..=4)
        )
            .prop_map(|(id, numbers, offsets)| ToGuest::Slots(SlotGrant {
                id,
                generation: numbers[0],
                width: numbers[1],
                height: numbers[2],
                stride: numbers[3],
                offsets,
            })),
        (id(), any::<u32>(), any::<u8>()).prop_map(|(id, generation, slot)| ToGuest::Release {
            id,
            generation,
            slot
        }),
        (id(), any::<u32>()).prop_map(|(id, time_ms)| ToGuest::Frame { id, time_ms }),
        id().prop_map(|id| ToGuest::Close { id }),
        (
            id(),
            prop::collection::vec(code(), 0..=limits::MAX_HELD_KEYS),
            any::<[u32; 4]>()
        )
            .prop_map(|(id, held, modifiers)| ToGuest::KeyEnter {
                id,
                held,
                modifiers
            }),
        (code(), any::<bool>(), any::<[u32; 2]>()).prop_map(
            |(code, pressed, [serial, time_ms])| ToGuest::Key {
                code,
                pressed,
                serial,
                time_ms
            }
        ),
        any::<[u32; 4]>().prop_map(|masks| ToGuest::Modifiers { masks }),
        Just(ToGuest::KeyLeave),
        (id(), any::<[i32; 2]>(), any::<u32>())
            .prop_map(|(id, [x, y], time_ms)| { ToGuest::PointerMotion { id, x, y, time_ms } }),
        (code(), any::<bool>(), any::<[u32; 2]>()).prop_map(
            |(code, pressed, [serial, time_ms])| ToGuest::PointerButton {
                code,
                pressed,
                serial,
                time_ms
            }
        ),
        (any::<[i32; 4]>(), any::<u32>()).prop_map(|([x, y, x120, y120], time_ms)| {
            ToGuest::PointerAxis {
                x,
                y,
                x120,
                y120,
                time_ms,
            }
        }),
        Just(ToGuest::PointerLeave),
        any::<u32>().prop_map(|nonce| ToGuest::Ping { nonce }),
    ]
}

/// Encodes all, feeds the stream in pieces of `piece` bytes, and expects the same messages back.
fn round_trip<M: Message + Clone + PartialEq + std::fmt::Debug>(messages: &[M], piece: usize) {
    let mut stream = Vec::new();
    for message in messages {
        message.encode(&mut stream).expect("within bounds");
    }
    let mut decoder = Decoder::<M>::default();
    let mut got = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.feed(bytes);
        while let Some(message) = decoder.take().expect("encoded by us") {
            got.push(message);
        }
    }
    assert_eq!(got, messages);
}

fn frame(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).expect("within bounds");
    bytes
}

fn first<M: Message>(bytes: &[u8]) -> Result<Option<M>, Malformed> {
    let mut decoder = Decoder::<M>::default();
    decoder.feed(bytes);
    decoder.take()
}

proptest! {
    #[test]
    fn guest_messages_survive(messages in prop::collection::vec(to_host(), 1..8), piece in 1..64usize) {
        round_trip(&messages, piece);
    }

    #[test]
    fn host_messages_survive(messages in prop::collection::vec(to_guest(), 1..8), piece in 1..64usize) {
        round_trip(&messages, piece);
    }

    /// Cut anywhere, a frame is only incomplete; with the length field made to agree, it is malformed.
    #[test]
    fn a_cut_frame_is_never_a_message(message in to_host(), cut in any::<prop::sample::Index>()) {
        let bytes = frame(&message);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(first::<ToHost>(&bytes[..cut]), Ok(None));
        if let Some(body) = cut.checked_sub(Header::LEN) {
            prop_assert!(ToHost::decode(u16::from_le_bytes([bytes[0], bytes[1]]), &bytes[8..8 + body]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert!(ToHost::decode(u16::from_le_bytes([bytes[0], bytes[1]]), &longer[8..]).is_err());
    }

    /// Whatever comes is a message or an error, and what is accepted encodes to the same bytes.
    #[test]
    fn any_bytes_are_refused_or_exact(kind in 0..12u16, body in prop::collection::vec(any::<u8>(), 0..96)) {
        if let Ok(message) = ToHost::decode(kind, &body) {
            prop_assert_eq!(&frame(&message)[Header::LEN..], &body[..]);
        }
    }
}

#[test]
fn headers_that_lie_are_not_waited_for() {
    let header = |kind: u16, zero: u16, len: u32| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(zero.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes
    };
    for (bytes, expected) in [
        (header(6, 1, 4), Malformed::Reserved),
        (header(6, 0, 4097), Malformed::TooLong(4097)),
        (header(6, 0, u32::MAX), Malformed::TooLong(u32::MAX)),
    ] {
        assert_eq!(first::<ToHost>(&bytes), Err(expected));
    }
    for kind in [0, 11, 0x81, 0x92, u16::MAX] {
        assert_eq!(
            first::<ToHost>(&header(kind, 0, 0)),
            Err(Malformed::Unknown(kind))
        );
    }
    assert_eq!(
        first::<ToGuest>(&header(1, 0, 0)),
        Err(Malformed::Unknown(1))
    );
}

#[test]
fn bounds_hold_at_the_limit_and_break_above() {
    let id = WindowId(1);
    let request = |width, height, count| ToHost::BufferRequest {
        id,
        width,
        height,
        format: Format::Xrgb8888,
        count,
    };
    let titled = |len: usize, app: usize, min, max| {
        ToHost::Window(Window {
            id,
            kind: WindowKind::Toplevel,
            title: "t".repeat(len),
            app_id: "a".repeat(app),
            min_size: min,
            max_size: max,
            attention: false,
            wants_fullscreen: false,
        })
    };
    let commit = |slot, rects| {
        ToHost::Commit(Commit {
            id,
            slot,
            generation: 0,
            ack_serial: 0,
            damage: vec![
                DamageRect {
                    x: 0,
                    y: 0,
                    width: 1,
                    height: 1
                };
                rects
            ],
        })
    };
    let max = limits::MAX_EXTENT;
    for (message, ok) in [
        (request(max, 4096, 1), true),
        (request(max + 1, 1, 1), false),
        (request(1, max, 4), true),
        (request(1, max + 1, 4), false),
        (request(max, 4097, 1), false),
        (request(0, 1, 1), false),
        (request(1, 0, 1), false),
        (request(u32::MAX, u32::MAX, 1), false),
        (request(1, 1, 0), false),
        (request(1, 1, 5), false),
        (
            titled(limits::MAX_TITLE, limits::MAX_APP_ID, (0, 0), (0, 0)),
            true,
        ),
        (titled(limits::MAX_TITLE + 1, 0, (0, 0), (0, 0)), false),
        (titled(0, limits::MAX_APP_ID + 1, (0, 0), (0, 0)), false),
        (titled(0, 0, (max, 1), (0, 1)), true),
        (titled(0, 0, (max + 1, 1), (0, 0)), false),
        (titled(0, 0, (2, 0), (1, 0)), false),
        (commit(3, limits::MAX_DAMAGE), true),
        (commit(4, 0), false),
        (commit(0, limits::MAX_DAMAGE + 1), false),
    ] {
        assert_eq!(message.encode(&mut Vec::new()).is_ok(), ok, "{message:?}");
    }
}
