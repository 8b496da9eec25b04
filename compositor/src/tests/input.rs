//! Whom keys and clicks reach.

use std::time::Duration;

use casemate_vm::Label;
use casemate_window_wire::{Request, ToGuest, ToHost, WindowId, WindowKind};

use super::fixture::{Fixture, Guest};
use crate::{
    geometry::{Point, Rect},
    input::{InputEvent, keys},
    theme,
};

const A: u16 = 30;
const B: u16 = 48;

fn two() -> (Fixture, Guest, Guest) {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    let mut other = fixture.guest("other", Label::Red);
    work.toplevel(&mut fixture, 1, "work", (400, 300), 1);
    other.toplevel(&mut fixture, 1, "other", (400, 300), 2);
    (fixture, work, other)
}

fn middle(rect: Rect) -> Point {
    Point::new(rect.x + rect.w / 2, rect.y + rect.h / 2)
}

fn buttons(guest: &Guest) -> Vec<bool> {
    guest
        .heard
        .iter()
        .filter_map(|message| match message {
            ToGuest::PointerButton { pressed, .. } => Some(*pressed),
            _ => None,
        })
        .collect()
}

fn configures(guest: &Guest) -> Vec<(u32, u32, u32)> {
    guest
        .heard
        .iter()
        .filter_map(|message| match message {
            ToGuest::Configure(c) => Some((c.serial, c.width, c.height)),
            _ => None,
        })
        .collect()
}

#[test]
fn keys_reach_only_the_focused_vm() {
    let (mut fixture, mut work, mut other) = two();
    assert_eq!(fixture.focused(), Some(("work".to_owned(), 1)));
    fixture.press(A);
    fixture.click(middle(fixture.place("other", 1)));
    fixture.press(B);
    fixture.settle(&mut [&mut work, &mut other]);
    assert_eq!(work.pressed_keys(), [A]);
    assert_eq!(other.pressed_keys(), [B]);
    let leave = work
        .heard
        .iter()
        .position(|m| *m == ToGuest::KeyLeave)
        .unwrap();
    assert!(
        !work.heard[leave..]
            .iter()
            .any(|m| matches!(m, ToGuest::Key { .. })),
        "nothing after the leave"
    );
    assert_eq!(buttons(&other), [true, false]);
    assert!(buttons(&work).is_empty());
}

#[test]
fn a_key_held_across_a_change_of_focus_is_released_by_the_leave_and_unknown_to_the_new() {
    let (mut fixture, mut work, mut other) = two();
    fixture.key(A, true);
    fixture.click(middle(fixture.place("other", 1)));
    fixture.key(A, false);
    fixture.settle(&mut [&mut work, &mut other]);
    assert!(
        other
            .heard
            .iter()
            .all(|m| !matches!(m, ToGuest::Key { .. }))
    );
    let enter = other.heard.iter().find_map(|m| match m {
        ToGuest::KeyEnter { id, held, .. } => Some((*id, held.clone())),
        _ => None,
    });
    assert_eq!(enter, Some((WindowId(1), vec![])));
}

#[test]
fn a_newcomer_gets_no_keys_and_comes_behind() {
    let (mut fixture, mut work, mut other) = two();
    fixture.press(A);
    for id in 2..6 {
        other.toplevel(&mut fixture, id, "look at me", (700, 500), 3);
        fixture.press(A);
    }
    fixture.settle(&mut [&mut work, &mut other]);
    assert_eq!(fixture.focused(), Some(("work".to_owned(), 1)));
    assert!(other.pressed_keys().is_empty());
    assert_eq!(work.pressed_keys().len(), 5);
    assert_eq!(fixture.desktop.list()[0].vm, "work", "in front");
}

#[test]
fn an_own_new_window_gets_the_focus_only_right_after_input() {
    let (mut fixture, mut work, _other) = two();
    fixture.press(A);
    fixture.pass(Duration::from_millis(900));
    work.toplevel(&mut fixture, 2, "wanted", (200, 100), 3);
    assert_eq!(fixture.focused(), Some(("work".to_owned(), 2)));
    fixture.pass(Duration::from_millis(1100));
    work.toplevel(&mut fixture, 3, "by itself", (200, 100), 3);
    assert_eq!(fixture.focused(), Some(("work".to_owned(), 2)));
    // Its end gives the focus back within the VM.
    work.say(&ToHost::Destroy { id: WindowId(2) });
    fixture.settle(&mut [&mut work]);
    assert!(fixture.focused().is_some_and(|(vm, _)| vm == "work"));
}

#[test]
fn when_the_focused_vm_ends_no_other_vm_gets_the_next_keys() {
    let (mut fixture, mut work, mut other) = two();
    fixture.press(A);
    work.say(&ToHost::Destroy { id: WindowId(1) });
    fixture.settle(&mut [&mut work, &mut other]);
    assert_eq!(fixture.focused(), None);
    other.toplevel(&mut fixture, 2, "me", (200, 100), 3);
    assert_eq!(fixture.focused(), None, "the person was just typing");
    fixture.pass(Duration::from_millis(1100));
    other.toplevel(&mut fixture, 3, "me", (200, 100), 3);
    assert_eq!(fixture.focused(), Some(("other".to_owned(), 3)));
    assert!(other.pressed_keys().is_empty());
}

#[test]
fn a_click_that_was_under_way_does_not_reach_a_newcomer() {
    let mut fixture = Fixture::new();
    let mut other = fixture.guest("other", Label::Red);
    let at = Point::new(300, 300);
    fixture.point(at);
    other.toplevel(&mut fixture, 1, "trap", (1200, 700), 3);
    for (wait, reaches) in [(0, false), (499, false), (1, true)] {
        fixture.pass(Duration::from_millis(wait));
        fixture.button(true);
        fixture.button(false);
        fixture.settle(&mut [&mut other]);
        assert_eq!(!buttons(&other).is_empty(), reaches, "after {wait} ms");
    }
}

#[test]
fn a_title_bar_moves_its_window_but_not_off_the_screen() {
    let (mut fixture, mut work, _other) = two();
    let start = fixture.place("work", 1);
    fixture.point(Point::new(start.x + 60, start.y - 10));
    fixture.button(true);
    fixture.point(Point::new(start.x + 160, start.y + 40));
    fixture.settle(&mut [&mut work]);
    let moved = fixture.place("work", 1);
    assert_eq!((moved.x - start.x, moved.y - start.y), (100, 50));
    for far in [(0, 0), (1279, 0), (1279, 799), (0, 799)] {
        fixture.point(Point::new(far.0, far.1));
        // Checks that the title bar can still be grabbed.
        fixture.settle(&mut [&mut work]);
    }
    fixture.button(false);
    fixture.point(Point::new(600, 400));
    let end = fixture.place("work", 1);
    fixture.point(Point::new(700, 500));
    assert_eq!(fixture.place("work", 1), end, "released");
    assert!(buttons(&work).is_empty(), "the guest hears none of it");
}

#[test]
fn a_border_asks_for_a_size_and_the_other_side_stays() {
    let (mut fixture, mut work, _other) = two();
    fixture.settle(&mut [&mut work]);
    // The guest answers the newest configure.
    let (serial, ..) = *configures(&work).last().unwrap();
    let start = fixture.place("work", 1);
    let grant = work.grant(1);
    let commit = |work: &mut Guest, generation, ack_serial| {
        work.say(&ToHost::Commit(casemate_window_wire::Commit {
            id: WindowId(1),
            slot: 0,
            generation,
            ack_serial,
            damage: vec![],
        }));
    };
    commit(&mut work, grant.generation, serial);
    fixture.settle(&mut [&mut work]);
    fixture.point(Point::new(start.x - 2, start.y + 150));
    fixture.button(true);
    fixture.point(Point::new(start.x - 22, start.y + 150));
    fixture.settle(&mut [&mut work]);
    let (serial, width, height) = *configures(&work).last().unwrap();
    assert_eq!((width, height), (420, 300));
    work.request(1, (420, 300), 1);
    fixture.settle(&mut [&mut work]);
    let generation = work.grant(1).generation;
    commit(&mut work, generation, serial);
    fixture.settle(&mut [&mut work]);
    fixture.button(false);
    let resized = fixture.place("work", 1);
    assert_eq!((resized.w, resized.right()), (420, start.right()));
}

#[test]
fn the_close_button_asks_and_does_not_destroy() {
    let (mut fixture, mut work, _other) = two();
    let content = fixture.place("work", 1);
    let at = Point::new(content.right() - theme::TITLE / 2, content.y - 12);
    fixture.click(at);
    fixture.settle(&mut [&mut work]);
    assert!(work.heard.contains(&ToGuest::Close { id: WindowId(1) }));
    assert_eq!(fixture.shown("work"), 1);
}

#[test]
fn host_chords_reach_no_vm() {
    let (mut fixture, mut work, mut other) = two();
    work.heard.clear();
    fixture.key(keys::LEFT_SUPER, true);
    fixture.press(keys::TAB);
    fixture.press(keys::Q);
    fixture.press(A);
    fixture.key(keys::LEFT_SUPER, false);
    fixture.settle(&mut [&mut work, &mut other]);
    assert!(work.pressed_keys().is_empty() && other.pressed_keys().is_empty());
    assert_eq!(fixture.focused(), Some(("other".to_owned(), 1)));
    assert!(other.heard.contains(&ToGuest::Close { id: WindowId(1) }));
}

#[test]
fn the_strip_brings_a_vm_to_the_front() {
    let (mut fixture, mut work, mut other) = two();
    fixture.settle(&mut [&mut work, &mut other]);
    let mut x = 100;
    while fixture.focused() != Some(("other".to_owned(), 1)) {
        fixture.click(Point::new(x, 10));
        x += 10;
        assert!(x < 400, "no place on the strip focuses it");
    }
    assert!(buttons(&other).is_empty());
}

#[test]
fn wishes_need_the_serial_of_a_recent_press_and_the_button_still_down() {
    let (mut fixture, mut work, _other) = two();
    let start = fixture.place("work", 1);
    let wish = |work: &mut Guest, serial| {
        work.say(&ToHost::Request {
            id: WindowId(1),
            what: Request::Move,
            serial,
        });
    };
    let serial = |work: &Guest| {
        work.heard.iter().rev().find_map(|m| match m {
            ToGuest::PointerButton {
                pressed: true,
                serial,
                ..
            } => Some(*serial),
            _ => None,
        })
    };
    fixture.point(middle(start));
    fixture.button(true);
    fixture.settle(&mut [&mut work]);
    let given = serial(&work).unwrap();
    wish(&mut work, given.wrapping_add(1000));
    fixture.settle(&mut [&mut work]);
    let far = Point::new(middle(start).x + 30, middle(start).y + 30);
    fixture.point(far);
    assert_eq!(fixture.place("work", 1), start, "an invented serial");
    wish(&mut work, given);
    fixture.settle(&mut [&mut work]);
    fixture.point(Point::new(far.x + 30, far.y));
    assert_eq!(fixture.place("work", 1).x, start.x + 30);
    fixture.button(false);
    wish(&mut work, given);
    fixture.settle(&mut [&mut work]);
    fixture.point(Point::new(far.x + 90, far.y));
    assert_eq!(fixture.place("work", 1).x, start.x + 30, "the button is up");
}

#[test]
fn motion_is_relative_to_the_content_and_leaves_with_the_pointer() {
    let (mut fixture, mut work, mut other) = two();
    let (mine, theirs) = (fixture.place("work", 1), fixture.place("other", 1));
    fixture.desktop.input(
        InputEvent::MotionTo {
            x: f64::from(mine.x) + 10.5,
            y: f64::from(mine.y) + 20.0,
        },
        fixture.now,
    );
    fixture.point(middle(theirs));
    fixture.settle(&mut [&mut work, &mut other]);
    assert!(work.heard.iter().any(|m| matches!(
        m,
        ToGuest::PointerMotion {
            id: WindowId(1),
            x: 2688,
            y: 5120,
            ..
        }
    )));
    assert!(work.heard.contains(&ToGuest::PointerLeave));
    assert!(
        other
            .heard
            .iter()
            .any(|m| matches!(m, ToGuest::PointerMotion { .. }))
    );
}

#[test]
fn a_vm_that_does_not_answer_is_marked_until_it_does() {
    let (mut fixture, mut work, _other) = two();
    fixture.press(A);
    fixture.settle(&mut [&mut work]);
    let nonce = work
        .heard
        .iter()
        .find_map(|m| match m {
            ToGuest::Ping { nonce } => Some(*nonce),
            _ => None,
        })
        .unwrap();
    let stuck = |fixture: &Fixture| {
        fixture
            .desktop
            .windows()
            .layers()
            .iter()
            .any(|layer| layer.stuck)
    };
    fixture.pass(Duration::from_secs(11));
    fixture.settle(&mut [&mut work]);
    assert!(stuck(&fixture));
    work.say(&ToHost::Pong { nonce });
    fixture.settle(&mut [&mut work]);
    assert!(!stuck(&fixture));
}

#[test]
fn a_dialog_lies_over_its_owner_and_rises_with_it() {
    let (mut fixture, mut work, _other) = two();
    fixture.press(A);
    work.declare(
        2,
        WindowKind::Dialog {
            parent: WindowId(1),
        },
        "Really?",
    );
    work.show(&mut fixture, 2, (100, 60), 4);
    let owner = fixture.place("work", 1);
    assert!(owner.contains(middle(fixture.place("work", 2))));
    fixture.click(Point::new(owner.x + 5, owner.y + 5));
    assert_eq!(
        fixture.desktop.list()[0].id,
        2,
        "still in front of its owner"
    );
}
