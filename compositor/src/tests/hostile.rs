//! Guests that break the rules lose their windows, and nobody else notices.

use std::time::Duration;

use casemate_vm::Label;
use casemate_window_wire::{
    Anchor, Commit, CursorShape, DamageRect, Format, Message, Position, ToGuest, ToHost, WindowId,
    WindowKind, limits,
};
use rustix::fs::SealFlags;

use super::fixture::{Fixture, Guest, hello, memfd, window};
use crate::{desktop::Purpose, geometry::Rect};

const ONE: WindowId = WindowId(1);

fn popup(parent: u32) -> WindowKind {
    WindowKind::Popup {
        parent: WindowId(parent),
        grab: false,
    }
}

fn commit(slot: u8, generation: u32, ack_serial: u32) -> ToHost {
    ToHost::Commit(Commit {
        id: ONE,
        slot,
        generation,
        ack_serial,
        damage: vec![],
    })
}

fn declare(id: u32, kind: WindowKind) -> ToHost {
    ToHost::Window(window(id, kind, "evil"))
}

fn position(id: u32) -> ToHost {
    ToHost::Position(Position {
        id: WindowId(id),
        anchor_rect: (0, 0, 1, 1),
        size: (10, 10),
        anchor: Anchor::None,
        gravity: Anchor::None,
        constraints: 0,
        offset: (0, 0),
        token: 0,
    })
}

fn raw(kind: u16, len: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(len.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn frames(messages: &[ToHost]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes).unwrap();
    }
    bytes
}

/// A guest with window 1 of generation 1 and two slots, the first of which was shown and given back.
fn guest(fixture: &mut Fixture) -> Guest {
    let mut guest = fixture.guest("evil", Label::Red);
    guest.toplevel(fixture, 1, "evil", (100, 100), 3);
    guest
}

#[test]
fn broken_rules_end_only_that_session() {
    let id = WindowId(9);
    let many: Vec<ToHost> = (10..10 + 256)
        .map(|id| declare(id, WindowKind::Toplevel))
        .collect();
    let deep: Vec<ToHost> = (1..=9).map(|id| declare(id + 1, popup(id))).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("unknown type", raw(11, 0, &[])),
        ("type of the other direction", raw(0x84, 0, &[])),
        ("length one short", raw(7, 3, &[1, 0, 0])),
        ("length one long", raw(7, 5, &[1, 0, 0, 0, 0])),
        ("length of a lie", raw(7, u32::MAX, &[])),
        ("length above the limit", raw(2, 4097, &[])),
        ("reserved field", vec![7, 0, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0]),
        ("second hello", frames(&[hello()])),
        ("unknown window: position", frames(&[position(9)])),
        (
            "unknown window: buffer",
            frames(&[ToHost::BufferRequest {
                id,
                width: 1,
                height: 1,
                format: Format::Xrgb8888,
                count: 1,
            }]),
        ),
        (
            "unknown window: commit",
            frames(&[ToHost::Commit(Commit {
                id,
                slot: 0,
                generation: 1,
                ack_serial: 0,
                damage: vec![],
            })]),
        ),
        ("unknown window: unmap", frames(&[ToHost::Unmap { id }])),
        ("unknown window: destroy", frames(&[ToHost::Destroy { id }])),
        (
            "used after destroy",
            frames(&[ToHost::Destroy { id: ONE }, commit(0, 1, 0)]),
        ),
        ("kind changed", frames(&[declare(1, popup(1))])),
        ("own parent", frames(&[declare(2, popup(2))])),
        (
            "parent that does not exist",
            frames(&[declare(2, popup(7))]),
        ),
        (
            "dialog of a popup",
            frames(&[
                declare(2, popup(1)),
                declare(
                    3,
                    WindowKind::Dialog {
                        parent: WindowId(2),
                    },
                ),
            ]),
        ),
        ("position of a toplevel", frames(&[position(1)])),
        ("too many windows", frames(&many)),
        ("popups too deep", frames(&deep)),
        ("slot never granted", frames(&[commit(2, 1, 0)])),
        ("generation of the future", frames(&[commit(0, 2, 0)])),
        (
            "slot still held",
            frames(&[commit(0, 1, 0), commit(0, 1, 0)]),
        ),
        ("serial never issued", frames(&[commit(0, 1, u32::MAX)])),
        (
            "commit without slots",
            frames(&[
                declare(2, WindowKind::Toplevel),
                ToHost::Commit(Commit {
                    id: WindowId(2),
                    slot: 0,
                    generation: 0,
                    ack_serial: 0,
                    damage: vec![],
                }),
            ]),
        ),
        (
            "size zero",
            raw(4, 14, &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]),
        ),
        (
            "size of a lie",
            raw(
                4,
                14,
                &[1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 1],
            ),
        ),
    ];
    let mut fixture = Fixture::new();
    let mut good = fixture.guest("good", Label::Green);
    good.toplevel(&mut fixture, 1, "good", (100, 100), 5);
    for (what, bytes) in cases {
        let mut evil = guest(&mut fixture);
        assert_eq!(fixture.shown("evil"), 1);
        evil.say_bytes(&bytes);
        fixture.settle(&mut [&mut evil, &mut good]);
        assert!(!evil.listen(), "{what}: the stream is closed");
        assert_eq!(fixture.shown("evil"), 0, "{what}: its windows are gone");
        assert_eq!(fixture.shown("good"), 1, "{what}");
        assert!(good.listen(), "{what}: the other session goes on");
        assert!(fixture.desktop.detach(&"evil".parse().unwrap()));
    }
}

#[test]
fn nothing_is_taken_before_a_right_hello() {
    let wrong = |magic, oldest, newest| ToHost::Hello {
        magic,
        oldest,
        newest,
    };
    let mut fixture = Fixture::new();
    for message in [
        declare(1, WindowKind::Toplevel),
        wrong(0, 1, 1),
        wrong(limits::MAGIC, 0, 0),
        wrong(limits::MAGIC, 2, 65_535),
        wrong(limits::MAGIC, 65_535, 0),
    ] {
        let mut evil = fixture.silent_guest("evil", Label::Red);
        evil.say(&message);
        fixture.settle(&mut [&mut evil]);
        assert!(!evil.listen(), "{message:?}");
        assert_eq!(evil.heard, []);
        fixture.desktop.detach(&"evil".parse().unwrap());
    }
}

#[test]
fn a_guest_that_broke_the_rules_waits_longer_and_longer() {
    let mut fixture = Fixture::new();
    let mut evil = fixture.guest("evil", Label::Red);
    for seconds in [1, 2, 4, 8] {
        evil.say_bytes(&raw(99, 0, &[]));
        fixture.settle(&mut [&mut evil]);
        fixture.pass(Duration::from_millis(seconds * 1000 - 1));
        fixture.desktop.service(fixture.now);
        assert!(!evil.connect(), "no stream before {seconds} s");
        fixture.pass(Duration::from_millis(1));
        fixture.desktop.service(fixture.now);
        assert!(evil.connect());
        evil.say(&hello());
        fixture.settle(&mut [&mut evil]);
    }
}

/// Legal but odd: races of a well-meaning guest, and values at their limits.
#[test]
fn odd_but_legal_messages_are_taken() {
    let mut fixture = Fixture::new();
    let mut odd = guest(&mut fixture);
    odd.declare(2, popup(1), "");
    odd.say(&position(2));
    odd.show(&mut fixture, 2, (10, 10), 1);
    let grant = odd.grant(1);
    let damage = |x, y, width, height| DamageRect {
        x,
        y,
        width,
        height,
    };
    let whole = Rect {
        x: 0,
        y: 0,
        w: 100,
        h: 100,
    };
    odd.paint(&grant, 1, whole, 0x0077_7777);
    odd.say(&ToHost::Commit(Commit {
        id: ONE,
        slot: 1,
        generation: grant.generation,
        ack_serial: 0,
        damage: vec![
            damage(u32::MAX, u32::MAX, u32::MAX, u32::MAX),
            damage(99, 99, u32::MAX, u32::MAX),
            damage(0, 0, 0, 0),
            damage(10_000, 0, 5, 5),
        ],
    }));
    // A commit for slots that a newer request has voided.
    odd.request(1, (100, 100), 1);
    odd.say(&commit(0, grant.generation, 0));
    // A window's end, and then its popup's by name.
    odd.say(&ToHost::Cursor {
        shape: CursorShape::Hidden,
    });
    fixture.settle(&mut [&mut odd]);
    let content = fixture.place("evil", 1);
    assert_eq!(fixture.pixel(content.x + 99, content.y + 99), 0x0077_7777);
    assert_eq!(fixture.pixel(content.x + 98, content.y + 98), 3);
    odd.say(&ToHost::Destroy { id: ONE });
    odd.say(&position(2));
    odd.say(&ToHost::Destroy { id: WindowId(2) });
    odd.say(&declare(1, WindowKind::Toplevel));
    fixture.settle(&mut [&mut odd]);
    assert!(odd.listen());
}

#[test]
fn a_request_without_room_gets_no_slots_and_later_all_of_them() {
    let mut fixture = Fixture::new();
    let mut odd = fixture.guest("odd", Label::Red);
    odd.declare(1, WindowKind::Toplevel, "");
    odd.request(1, (8192, 8192), 1);
    fixture.settle(&mut [&mut odd]);
    assert_eq!(odd.grant(1).offsets, Vec::<u64>::new());
    for _ in 0..200 {
        odd.request(1, (2048, 2048), 4);
        fixture.settle(&mut [&mut odd]);
        assert_eq!(odd.grant(1).offsets.len(), 4, "nothing is lost");
    }
    odd.say(&ToHost::Destroy { id: ONE });
    odd.declare(2, WindowKind::Toplevel, "");
    odd.request(2, (2048, 2048), 4);
    fixture.settle(&mut [&mut odd]);
    assert_eq!(odd.grant(2).offsets.len(), 4);
}

#[test]
fn a_flood_waits_in_its_own_socket() {
    let mut fixture = Fixture::new();
    let mut flood = fixture.guest("flood", Label::Red);
    let mut good = fixture.guest("good", Label::Green);
    good.toplevel(&mut fixture, 1, "", (100, 100), 1);
    let cursor = frames(&[ToHost::Cursor {
        shape: CursorShape::Text,
    }]);
    flood.say_bytes(&cursor.repeat(6000));
    flood.declare(1, WindowKind::Toplevel, "");
    let declared = |flood: &Guest| {
        flood
            .heard
            .iter()
            .any(|m| matches!(m, ToGuest::Configure(_)))
    };
    fixture.settle(&mut [&mut flood, &mut good]);
    assert!(!declared(&flood), "more than its rate was handled at once");
    good.toplevel(&mut fixture, 2, "", (100, 100), 1);
    assert_eq!(fixture.shown("good"), 2, "the other is served meanwhile");
    for _ in 0..50 {
        fixture.pass(Duration::from_millis(5));
        fixture.settle(&mut [&mut flood]);
    }
    assert!(declared(&flood));
    assert!(flood.listen());
}

#[test]
fn a_guest_that_reads_nothing_is_cut_off() {
    let mut fixture = Fixture::new();
    let mut deaf = fixture.guest("deaf", Label::Red);
    deaf.declare(1, WindowKind::Toplevel, "");
    let request = frames(&[ToHost::BufferRequest {
        id: ONE,
        width: 1,
        height: 1,
        format: Format::Xrgb8888,
        count: 4,
    }]);
    let mut cut_off = false;
    for _ in 0..400 {
        // It speaks and never listens.
        let written =
            std::io::Write::write_all(deaf.stream.as_mut().unwrap(), &request.repeat(500));
        cut_off |= written.is_err();
        fixture.desktop.wake(deaf.vm, Purpose::Stream);
        while fixture.desktop.service(fixture.now) == Some(fixture.now) {}
        fixture.pass(Duration::from_millis(100));
    }
    assert!(cut_off);
}

#[test]
fn window_memory_must_be_sealed_and_names_are_attached_once() {
    let mut fixture = Fixture::new();
    let _work = fixture.guest("work", Label::Blue);
    let mut attach = |name: &str, seals, len| {
        let (_ours, theirs) = casemate_link::PacketSocket::pair().unwrap();
        let memory = memfd(len, seals);
        let name = name.parse().unwrap();
        fixture
            .desktop
            .attach(name, Label::Red, theirs.into(), memory, fixture.now)
            .is_ok()
    };
    assert!(!attach("evil", SealFlags::empty(), 4096));
    assert!(!attach("evil", SealFlags::SHRINK, 0));
    assert!(!attach("work", SealFlags::SHRINK, 4096));
    assert!(attach("fine", SealFlags::SHRINK, 4096));
    assert!(
        attach("fine", SealFlags::SHRINK, 4096),
        "its old vmm has gone"
    );
}
