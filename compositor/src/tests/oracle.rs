//! After whatever guests and a person do: every visible frame has its colour on all sides, and the strip is the host's.

use casemate_vm::Label;
use casemate_window_wire::{Anchor, Position, ToHost, WindowId, WindowKind};
use proptest::prelude::*;

use super::fixture::{Fixture, Guest, OUTPUT};
use crate::{
    geometry::{Point, Rect, Size},
    input::keys,
    theme,
};

/// What guests paint; near no colour of the host's.
const PAINT: u32 = 0x00a1_b2c3;

#[derive(Clone, Debug)]
enum Op {
    Toplevel {
        vm: usize,
        id: u32,
        size: (u32, u32),
    },
    Popup {
        vm: usize,
        id: u32,
        parent: u32,
        at: (i32, i32),
        size: (u32, u32),
        anchor: u8,
    },
    Unmap {
        vm: usize,
        id: u32,
    },
    Destroy {
        vm: usize,
        id: u32,
    },
    Click {
        x: i32,
        y: i32,
    },
    Drag {
        x: i32,
        y: i32,
        to: (i32, i32),
    },
    Next,
    Maximize,
}

fn op() -> impl Strategy<Value = Op> {
    let vm = || 0..3usize;
    let id = || 1..5u32;
    let size = || (1..1400u32, 1..900u32);
    let place = || (0..1280i32, 0..800i32);
    prop_oneof![
        3 => (vm(), id(), size()).prop_map(|(vm, id, size)| Op::Toplevel { vm, id, size }),
        3 => (vm(), 5..8u32, id(), (-900..900i32, -900..900i32), size(), 0..9u8)
            .prop_map(|(vm, id, parent, at, size, anchor)| Op::Popup { vm, id, parent, at, size, anchor }),
        1 => (vm(), 1..8u32).prop_map(|(vm, id)| Op::Unmap { vm, id }),
        1 => (vm(), 1..8u32).prop_map(|(vm, id)| Op::Destroy { vm, id }),
        2 => place().prop_map(|(x, y)| Op::Click { x, y }),
        2 => (place(), place()).prop_map(|((x, y), to)| Op::Drag { x, y, to }),
        1 => Just(Op::Next),
        1 => Just(Op::Maximize),
    ]
}

fn anchor(number: u8) -> Anchor {
    match number {
        1 => Anchor::Top,
        2 => Anchor::Bottom,
        3 => Anchor::Left,
        4 => Anchor::Right,
        5 => Anchor::TopLeft,
        6 => Anchor::BottomLeft,
        7 => Anchor::TopRight,
        8 => Anchor::BottomRight,
        _ => Anchor::None,
    }
}

/// Shows a window, whether it is new or not; a session that ends begins again.
fn show(fixture: &mut Fixture, guest: &mut Guest, id: u32, size: (u32, u32)) {
    guest.request(id, size, 1);
    fixture.settle(&mut [guest]);
    let grant = guest.grant(id);
    if !grant.offsets.is_empty() {
        let whole = Rect::new(Point::default(), Size::from_wire(size));
        guest.paint(&grant, 0, whole, PAINT);
        guest.commit(&grant, 0, &[]);
    }
    fixture.settle(&mut [guest]);
}

fn apply(fixture: &mut Fixture, guests: &mut [Guest], alive: &mut [Vec<u32>], op: &Op) {
    match *op {
        Op::Toplevel { vm, id, size } => {
            guests[vm].declare(id, WindowKind::Toplevel, "[dom0] [work] ████");
            if !alive[vm].contains(&id) {
                alive[vm].push(id);
            }
            show(fixture, &mut guests[vm], id, size);
        }
        Op::Popup {
            vm,
            id,
            parent,
            at,
            size,
            anchor: number,
        } => {
            if !alive[vm].contains(&parent) || alive[vm].contains(&id) {
                return;
            }
            let parent = WindowId(parent);
            guests[vm].declare(
                id,
                WindowKind::Popup {
                    parent,
                    grab: number % 2 == 0,
                },
                "",
            );
            guests[vm].say(&ToHost::Position(Position {
                id: WindowId(id),
                anchor_rect: (at.0, at.1, 20, 20),
                size,
                anchor: anchor(number),
                gravity: anchor(8 - number),
                constraints: number,
                offset: at,
                token: 0,
            }));
            alive[vm].push(id);
            show(fixture, &mut guests[vm], id, size);
        }
        Op::Unmap { vm, id } => {
            if alive[vm].contains(&id) {
                guests[vm].say(&ToHost::Unmap { id: WindowId(id) });
            }
        }
        Op::Destroy { vm, id } => {
            if alive[vm].contains(&id) {
                // Popups end with their parent; naming them afterwards is in order.
                guests[vm].say(&ToHost::Destroy { id: WindowId(id) });
                alive[vm].retain(|&other| other != id);
                if id < 5 {
                    for popup in 5..8 {
                        if alive[vm].contains(&popup) {
                            guests[vm].say(&ToHost::Destroy {
                                id: WindowId(popup),
                            });
                        }
                    }
                    alive[vm].retain(|&other| other < 5);
                }
            }
        }
        Op::Click { x, y } => fixture.click(Point::new(x, y)),
        Op::Drag { x, y, to } => {
            fixture.point(Point::new(x, y));
            fixture.button(true);
            fixture.point(Point::new(to.0, to.1));
            fixture.button(false);
        }
        Op::Next | Op::Maximize => {
            fixture.key(keys::LEFT_SUPER, true);
            fixture.press(if matches!(op, Op::Next) {
                keys::TAB
            } else {
                keys::UP
            });
            fixture.key(keys::LEFT_SUPER, false);
        }
    }
    let mut all: Vec<&mut Guest> = guests.iter_mut().collect();
    fixture.settle(&mut all);
    assert!(
        all.iter_mut().all(|guest| guest.listen()),
        "{op:?} ended a session"
    );
}

/// Every pixel of the border of `frame` that nothing in front covers.
fn check(fixture: &Fixture, pointer: Point) {
    let screen = Rect::new(Point::default(), OUTPUT);
    let mut front: Vec<Rect> = vec![
        Rect {
            x: 0,
            y: 0,
            w: OUTPUT.w,
            h: theme::PANEL,
        },
        Rect {
            x: pointer.x - 24,
            y: pointer.y - 24,
            w: 48,
            h: 48,
        },
    ];
    for layer in fixture.desktop.windows().layers() {
        let width = if layer.popup {
            theme::POPUP_BORDER
        } else {
            theme::BORDER
        };
        let frame = layer.frame;
        let inner = frame.grown(-width);
        if let Some(visible) = frame.intersection(screen) {
            for y in visible.y..visible.bottom() {
                let whole_row = y < inner.y || y >= inner.bottom();
                let columns: Vec<i32> = if whole_row {
                    (visible.x..visible.right()).collect()
                } else {
                    (frame.x..frame.x + width)
                        .chain(frame.right() - width..frame.right())
                        .filter(|x| (visible.x..visible.right()).contains(x))
                        .collect()
                };
                for x in columns {
                    let point = Point::new(x, y);
                    if front.iter().all(|rect| !rect.contains(point)) {
                        assert_eq!(
                            fixture.pixel(x, y),
                            layer.label.rgb(),
                            "border of {} at {x},{y}, frame {frame:?}",
                            layer.vm_name
                        );
                    }
                }
            }
        }
        front.push(frame.grown(theme::RING));
    }
    for y in 0..theme::PANEL {
        for x in 0..OUTPUT.w {
            assert_ne!(
                fixture.pixel(x, y),
                PAINT,
                "a guest's pixel in the strip at {x},{y}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_visible_frame_has_its_colour(ops in prop::collection::vec(op(), 1..40)) {
        let mut fixture = Fixture::new();
        let mut guests = vec![
            fixture.guest("work", Label::Blue),
            fixture.guest("untrusted", Label::Red),
            fixture.guest("vault", Label::Black),
        ];
        let mut alive = vec![Vec::new(); 3];
        let mut pointer = Point::new(-100, -100);
        for op in &ops {
            match op {
                Op::Click { x, y } => pointer = Point::new(*x, *y),
                Op::Drag { to, .. } => pointer = Point::new(to.0, to.1),
                _ => {}
            }
            apply(&mut fixture, &mut guests, &mut alive, op);
            check(&fixture, pointer);
            fixture.pass(std::time::Duration::from_millis(700));
        }
    }
}
