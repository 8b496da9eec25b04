//! Windows on the screen: frames, titles, popups, pixels, frames for guests.

use casemate_vm::Label;
use casemate_window_wire::{Anchor, Position, ToGuest, ToHost, WindowId, WindowKind};

use super::fixture::Fixture;
use crate::{
    geometry::{Point, Rect, Size},
    theme,
};

/// A menu that hangs below a point of window 1.
pub(super) fn menu_position(id: u32, at: (i32, i32), size: (u32, u32)) -> ToHost {
    ToHost::Position(Position {
        id: WindowId(id),
        anchor_rect: (at.0, at.1, 10, 10),
        size,
        anchor: Anchor::BottomLeft,
        gravity: Anchor::BottomRight,
        constraints: 0x0f,
        offset: (0, 0),
        token: 7,
    })
}

const POPUP: WindowKind = WindowKind::Popup {
    parent: WindowId(1),
    grab: true,
};

/// The four sides of a frame, one pixel inside its edge.
fn sides(frame: Rect) -> [(i32, i32); 4] {
    [
        (frame.x + 1, frame.y + frame.h / 2),
        (frame.right() - 2, frame.y + frame.h / 2),
        (frame.x + frame.w / 2, frame.y + 1),
        (frame.x + frame.w / 2, frame.bottom() - 2),
    ]
}

#[test]
fn a_window_is_framed_in_its_colour_and_titled() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    work.toplevel(&mut fixture, 1, "foot", (400, 300), 0x0012_3456);
    let content = fixture.place("work", 1);
    assert_eq!((content.w, content.h), (400, 300));
    let frame = Rect {
        x: content.x - theme::BORDER,
        y: content.y - theme::BORDER - theme::TITLE,
        w: 400 + 2 * theme::BORDER,
        h: 300 + 2 * theme::BORDER + theme::TITLE,
    };
    for (x, y) in sides(frame) {
        assert_eq!(fixture.pixel(x, y), Label::Blue.rgb(), "{x},{y}");
    }
    for (x, y) in [
        (content.x, content.y),
        (content.right() - 1, content.bottom() - 1),
    ] {
        assert_eq!(fixture.pixel(x, y), 0x0012_3456);
    }
    let title = |x: i32| {
        let y = frame.y + theme::BORDER;
        (y..y + theme::TITLE)
            .filter(|&y| fixture.pixel(x, y) == 0x00ff_ffff)
            .count()
    };
    let inked = (content.x..content.right())
        .filter(|&x| title(x) > 0)
        .count();
    assert!(inked > 30, "white letters in the title bar: {inked}");
}

#[test]
fn only_damage_is_copied_and_slots_come_back() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    let grant = work.toplevel(&mut fixture, 1, "", (100, 100), 0x0011_1111);
    assert!(work.heard.contains(&ToGuest::Release {
        id: WindowId(1),
        generation: grant.generation,
        slot: 0
    }));
    assert!(work.heard.iter().any(|message| matches!(
        message,
        ToGuest::Frame {
            id: WindowId(1),
            ..
        }
    )));
    let whole = Rect {
        x: 0,
        y: 0,
        w: 100,
        h: 100,
    };
    let part = Rect {
        x: 10,
        y: 10,
        w: 20,
        h: 20,
    };
    work.paint(&grant, 1, whole, 0x0022_2222);
    work.commit(&grant, 1, &[part]);
    fixture.settle(&mut [&mut work]);
    let content = fixture.place("work", 1);
    assert_eq!(fixture.pixel(content.x + 15, content.y + 15), 0x0022_2222);
    assert_eq!(fixture.pixel(content.x + 50, content.y + 50), 0x0011_1111);
    // What the guest writes after the commit was taken is not shown.
    work.paint(&grant, 1, whole, 0x0033_3333);
    fixture.settle(&mut [&mut work]);
    assert_eq!(fixture.pixel(content.x + 15, content.y + 15), 0x0022_2222);
}

#[test]
fn of_several_commits_in_one_frame_the_last_is_shown_with_all_damage() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    let grant = work.toplevel(&mut fixture, 1, "", (100, 100), 0x0011_1111);
    work.heard.clear();
    let rect = |x| Rect {
        x,
        y: 0,
        w: 10,
        h: 10,
    };
    work.paint(&grant, 0, rect(0), 0x0022_2222);
    work.commit(&grant, 0, &[rect(0)]);
    work.paint(&grant, 1, rect(0), 0x0022_2222);
    work.paint(&grant, 1, rect(50), 0x0033_3333);
    work.commit(&grant, 1, &[rect(50)]);
    fixture.settle(&mut [&mut work]);
    let content = fixture.place("work", 1);
    assert_eq!(fixture.pixel(content.x + 5, content.y + 5), 0x0022_2222);
    assert_eq!(fixture.pixel(content.x + 55, content.y + 5), 0x0033_3333);
    let released = |slot| {
        work.heard
            .iter()
            .filter(|message| matches!(message, ToGuest::Release { slot: s, .. } if *s == slot))
            .count()
    };
    assert_eq!((released(0), released(1)), (1, 1));
}

#[test]
fn a_popup_is_framed_placed_and_dismissed_by_a_click_elsewhere() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Orange);
    work.toplevel(&mut fixture, 1, "editor", (400, 300), 0x0012_3456);
    work.declare(2, POPUP, "");
    work.say(&menu_position(2, (50, 60), (120, 80)));
    work.show(&mut fixture, 2, (120, 80), 0x00ab_cdef);
    let parent = fixture.place("work", 1);
    let popup = fixture.place("work", 2);
    assert_eq!(popup.origin(), Point::new(parent.x + 50, parent.y + 70));
    let placed = work.heard.iter().find_map(|message| match message {
        ToGuest::PopupPlaced {
            x,
            y,
            width,
            height,
            token,
            ..
        } => Some((*x, *y, *width, *height, *token)),
        _ => None,
    });
    assert_eq!(placed, Some((50, 70, 120, 80, 7)));
    for (x, y) in sides(popup.grown(theme::POPUP_BORDER)) {
        assert_eq!(fixture.pixel(x, y), Label::Orange.rgb(), "{x},{y}");
    }
    assert_eq!(fixture.pixel(popup.x, popup.y), 0x00ab_cdef);
    assert_eq!(
        fixture.focused(),
        Some(("work".to_owned(), 2)),
        "a grab has the keyboard"
    );
    work.heard.clear();
    fixture.click(Point::new(parent.x + 350, parent.y + 250));
    fixture.settle(&mut [&mut work]);
    assert!(work.heard.contains(&ToGuest::Close { id: WindowId(2) }));
    assert_eq!(
        fixture.shown("work"),
        1,
        "it is gone before the guest agrees"
    );
    assert_eq!(fixture.focused(), Some(("work".to_owned(), 1)));
    // The guest agrees late; both ways to end it are in order.
    work.say(&ToHost::Unmap { id: WindowId(2) });
    work.say(&ToHost::Destroy { id: WindowId(2) });
    work.say(&ToHost::Destroy { id: WindowId(1) });
    fixture.settle(&mut [&mut work]);
    assert!(work.listen());
    assert_eq!(fixture.shown("work"), 0);
}

#[test]
fn a_popup_larger_than_the_screen_stays_below_the_strip_and_leaves_part_free() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Red);
    work.toplevel(&mut fixture, 1, "", (400, 300), 0x0012_3456);
    work.declare(2, POPUP, "");
    work.say(&menu_position(2, (0, 0), (3000, 2000)));
    work.show(&mut fixture, 2, (3000, 2000), 0x00ab_cdef);
    let popup = fixture.place("work", 2).grown(theme::POPUP_BORDER);
    assert!(popup.y >= theme::PANEL && popup.x >= 0 && popup.right() <= 1280);
    assert!(popup.size().area() * 100 <= 1280 * 800 * 92);
    for (x, y) in sides(popup) {
        assert_eq!(fixture.pixel(x, y), Label::Red.rgb(), "{x},{y}");
    }
}

#[test]
fn see_through_contents_show_their_own_vms_colour_only() {
    let mut fixture = Fixture::new();
    let mut other = fixture.guest("other", Label::Green);
    other.toplevel(&mut fixture, 1, "", (1200, 700), 0x00ff_ffff);
    let mut work = fixture.guest("work", Label::Red);
    work.declare(1, WindowKind::Toplevel, "");
    work.say(&ToHost::BufferRequest {
        id: WindowId(1),
        width: 200,
        height: 100,
        format: casemate_window_wire::Format::Argb8888,
        count: 1,
    });
    fixture.settle(&mut [&mut work]);
    let grant = work.grant(1);
    work.commit(&grant, 0, &[]);
    fixture.settle(&mut [&mut work]);
    fixture.key(125, true);
    fixture.press(15);
    fixture.key(125, false);
    fixture.settle(&mut [&mut work]);
    assert_eq!(fixture.focused(), Some(("work".to_owned(), 1)));
    let content = fixture.place("work", 1);
    assert_eq!(
        fixture.pixel(content.x + 100, content.y + 50),
        Label::Red.rgb()
    );
}

#[test]
fn the_end_of_a_vm_takes_its_windows_and_leaves_the_others() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    let mut other = fixture.guest("other", Label::Red);
    work.toplevel(&mut fixture, 1, "", (300, 200), 1);
    other.toplevel(&mut fixture, 1, "", (300, 200), 2);
    assert!(fixture.desktop.detach(&"work".parse().unwrap()));
    assert!(!fixture.desktop.detach(&"work".parse().unwrap()));
    fixture.settle(&mut [&mut other]);
    assert_eq!((fixture.shown("work"), fixture.shown("other")), (0, 1));
    assert!(!work.listen(), "its stream is closed");
    assert_eq!(fixture.desktop.attached(), ["other"]);
}

#[test]
fn a_guest_may_leave_and_come_back() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    work.toplevel(&mut fixture, 1, "", (300, 200), 1);
    work.stream = None;
    fixture.settle(&mut [&mut work]);
    assert_eq!(fixture.shown("work"), 0);
    fixture.pass(std::time::Duration::from_millis(200));
    fixture.desktop.service(fixture.now);
    assert!(work.connect());
    work.say(&super::fixture::hello());
    work.toplevel(&mut fixture, 1, "", (300, 200), 1);
    assert_eq!(fixture.shown("work"), 1);
}

#[test]
fn a_smaller_output_brings_windows_back_onto_it() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    let mut other = fixture.guest("other", Label::Red);
    work.toplevel(&mut fixture, 1, "", (600, 400), 1);
    other.toplevel(&mut fixture, 1, "", (600, 300), 2);
    work.heard.clear();
    let small = Size::new(400, 300);
    fixture.desktop.set_output(small).unwrap();
    fixture.settle(&mut [&mut work, &mut other]);
    assert_eq!(fixture.desktop.frame().size, small);
    let told = work.heard.iter().find_map(|message| match message {
        ToGuest::Output(output) => Some((output.width, output.height)),
        _ => None,
    });
    assert_eq!(told, Some((400, 300)));
    assert_eq!((fixture.shown("work"), fixture.shown("other")), (1, 1));
}

#[test]
fn a_window_larger_than_the_screen_is_asked_to_fit() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    work.toplevel(&mut fixture, 1, "", (1400, 300), 1);
    let asked = work.heard.iter().rev().find_map(|message| match message {
        ToGuest::Configure(configure) => Some((configure.width, configure.height)),
        _ => None,
    });
    assert_eq!(asked, Some((1272, 300)));
}
