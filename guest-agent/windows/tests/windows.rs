//! What becomes of an app's windows at the host, request by request, with an app of the test's own.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::time::{Duration, Instant};

use casemate_window_wire::{Anchor, Request, ToGuest, WindowId, WindowKind};
use support::{
    Host,
    client::{App, Window, number},
};
use wayland_protocols::xdg::shell::client::xdg_positioner;

const BLUE: u32 = 0xff00_00ff;
const RED: u32 = 0xffff_0000;
const GREEN: u32 = 0xff00_ff00;
const PLAIN: (i32, u32) = (0, 0);

/// A host, an app, and the app's window, announced and configured but without content.
fn start() -> (Host, App, Window, WindowId) {
    let mut host = Host::start();
    host.wished = (100, 80);
    let mut app = App::connect(&host.path("wayland-0"));
    let window = app.window("main");
    host.with(&mut app, "the first configure", |_, events| {
        !events.configured.is_empty()
    });
    let id = host.find(|window| window.title == "main").unwrap();
    assert_eq!(app.events.toplevel_size, (100, 80));
    (host, app, window, id)
}

/// The same, with content.
fn shown() -> (Host, App, Window, WindowId) {
    let (mut host, mut app, window, id) = start();
    app.paint(&window.surface, (100, 80), BLUE, PLAIN);
    window.surface.commit();
    host.with(&mut app, "content", |host, _| host.windows[&id].shown);
    (host, app, window, id)
}

#[test]
fn only_the_window_geometry_is_forwarded() {
    let (mut host, mut app, window, id) = start();
    assert!(app.events.tiled, "no app need draw a frame");
    app.paint(&window.surface, (120, 100), BLUE, (10, 0x8000_0000));
    window.xdg.set_window_geometry(10, 10, 100, 80);
    window.surface.commit();
    host.with(&mut app, "content", |host, _| host.windows[&id].shown);
    let seen = &host.windows[&id];
    assert_eq!(seen.picture.size(), (100, 80));
    assert_eq!(seen.picture.colours(), 1, "no shadow");
    assert_eq!(seen.picture.at(0, 0) & 0xff_ffff, BLUE & 0xff_ffff);
    assert_eq!(seen.commits[0].ack_serial, seen.serial);
}

#[test]
fn subsurfaces_and_viewports_are_flattened_and_hit() {
    let (mut host, mut app, window, id) = start();
    app.paint(&window.surface, (60, 50), BLUE, (5, 0x8000_0000));
    app.scale_to(&window.surface, 120, 100);
    window.xdg.set_window_geometry(10, 10, 100, 80);
    let child = app.child(&window.surface, 40, 20);
    app.paint(&child, (20, 20), RED, PLAIN);
    child.commit();
    window.surface.commit();
    host.with(&mut app, "both colours", |host, _| {
        let seen = &host.windows[&id];
        seen.shown && seen.picture.at(35, 15) & 0xff_ffff == RED & 0xff_ffff
    });
    let picture = &host.windows[&id].picture;
    assert_eq!(picture.size(), (100, 80));
    assert_eq!(picture.at(5, 5) & 0xff_ffff, BLUE & 0xff_ffff);
    assert_eq!(picture.at(29, 10) & 0xff_ffff, BLUE & 0xff_ffff);
    assert_eq!(picture.at(30, 10) & 0xff_ffff, RED & 0xff_ffff);

    let before = host.windows[&id].commits.len();
    app.paint(&child, (20, 20), GREEN, PLAIN);
    child.commit();
    host.with(&mut app, "the child alone", |host, _| {
        host.windows[&id].commits.len() > before
    });
    let last = host.windows[&id].commits.last().unwrap();
    let area: u32 = last
        .damage
        .iter()
        .map(|rect| rect.width * rect.height)
        .sum();
    assert_eq!(area, 400, "only the child: {:?}", last.damage);

    host.point(id, 35, 15);
    host.with(&mut app, "the pointer in the child", |_, events| {
        events.pointer == Some((number(&child), 5.0, 5.0))
    });
    host.point(id, 5, 6);
    host.with(&mut app, "the pointer in the window", |_, events| {
        events.pointer == Some((number(&window.surface), 15.0, 16.0))
    });
    host.send(&ToGuest::PointerLeave);
    host.with(&mut app, "no pointer", |_, events| events.pointer.is_none());
}

#[test]
fn popups_are_placed_by_the_host() {
    let (mut host, mut app, window, id) = shown();
    host.send(&ToGuest::KeyEnter {
        id,
        held: Vec::new(),
        modifiers: [0; 4],
    });
    host.point(id, 1, 1);
    host.button(true);
    host.with(&mut app, "keyboard and press", |_, events| {
        events.keyboard == Some(number(&window.surface)) && !events.presses.is_empty()
    });

    let positioner = app.positioner();
    positioner.set_size(40, 30);
    positioner.set_anchor_rect(10, 20, 30, 5);
    positioner.set_anchor(xdg_positioner::Anchor::BottomRight);
    positioner.set_gravity(xdg_positioner::Gravity::TopLeft);
    positioner.set_offset(3, -4);
    positioner.set_constraint_adjustment(xdg_positioner::ConstraintAdjustment::FlipY);
    let (surface, popup) = app.popup(&window.xdg, &positioner, app.events.presses.last().copied());
    host.with(&mut app, "the place", |_, events| {
        !events.popup_places.is_empty()
    });
    assert_eq!(app.events.popup_places, [(43, 21, 40, 30)]);
    let kind = WindowKind::Popup {
        parent: id,
        grab: true,
    };
    let popup_id = host.find(|window| window.kind == kind).unwrap();
    let position = host.windows[&popup_id].position.unwrap();
    assert_eq!(position.anchor_rect, (10, 20, 30, 5));
    assert_eq!(position.size, (40, 30));
    assert_eq!(
        (position.anchor, position.gravity),
        (Anchor::BottomRight, Anchor::TopLeft)
    );
    assert_eq!((position.constraints, position.offset), (8, (3, -4)));

    app.paint(&surface, (40, 30), RED, PLAIN);
    surface.commit();
    host.with(&mut app, "the popup, with the keyboard", |host, events| {
        host.windows[&popup_id].shown && events.keyboard == Some(number(&surface))
    });
    let seen = &host.windows[&popup_id];
    assert_eq!(seen.picture.at(0, 0), RED, "with alpha");
    assert_eq!(seen.commits[0].ack_serial, seen.serial);

    host.button(false);
    host.point(popup_id, 7, 8);
    host.with(&mut app, "the pointer in the popup", |_, events| {
        events.pointer == Some((number(&surface), 7.0, 8.0))
    });

    positioner.set_offset(0, 0);
    popup.reposition(&positioner, 5);
    host.with(&mut app, "the new place", |_, events| {
        events.repositioned == [5]
    });
    assert_eq!(app.events.popup_places.last(), Some(&(40, 25, 40, 30)));

    host.send(&ToGuest::Close { id: popup_id });
    host.with(&mut app, "the end of the popup", |host, events| {
        events.popup_done == 1
            && host.gone == [popup_id]
            && events.keyboard == Some(number(&window.surface))
    });
    popup.destroy();
    app.roundtrip();
    host.send(&ToGuest::Ping { nonce: 1 });
    host.until("nothing more about it", |host| host.pongs == [1]);
    assert_eq!(host.gone, [popup_id]);
}

#[test]
fn a_hidden_window_comes_back() {
    let (mut host, mut app, window, id) = shown();
    window.surface.attach(None, 0, 0);
    window.surface.commit();
    host.with(&mut app, "the window hidden", |host, _| {
        !host.windows[&id].shown
    });
    app.events.configured.clear();
    window.surface.commit();
    host.with(&mut app, "a configure again", |_, events| {
        !events.configured.is_empty()
    });
    assert_eq!(app.events.toplevel_size, (100, 80));
    app.paint(&window.surface, (100, 80), GREEN, PLAIN);
    window.surface.commit();
    host.with(&mut app, "the window again", |host, _| {
        host.windows[&id].shown
    });
    assert_eq!(host.windows.len(), 1);
    assert_eq!(
        host.windows[&id].picture.at(9, 9) & 0xff_ffff,
        GREEN & 0xff_ffff
    );
}

#[test]
fn apps_draw_when_the_host_asks() {
    let (mut host, mut app, window, id) = shown();
    host.frames = false;
    let before = host.windows[&id].commits.len();
    let started = Instant::now();
    app.paint(&window.surface, (100, 80), RED, PLAIN);
    app.ask_for_frame(&window.surface);
    window.surface.commit();
    host.with(&mut app, "the commit", |host, _| {
        host.windows[&id].commits.len() > before
    });
    app.roundtrip();
    if started.elapsed() < Duration::from_millis(900) {
        assert_eq!(app.events.frames, [], "the host has not asked yet");
    }
    host.send(&ToGuest::Frame { id, time_ms: 4711 });
    host.with(&mut app, "the frame", |_, events| {
        events.frames == [4711] || started.elapsed() > Duration::from_secs(1)
    });

    // A host that never asks slows an app down but does not stop it.
    let asked = Instant::now();
    app.paint(&window.surface, (100, 80), GREEN, PLAIN);
    app.ask_for_frame(&window.surface);
    window.surface.commit();
    let count = app.events.frames.len();
    host.with(&mut app, "the frame without the host", |_, events| {
        events.frames.len() > count
    });
    assert!(asked.elapsed() >= Duration::from_millis(900));

    // An app that asks without drawing is answered too, with no commit for the host.
    let commits = host.windows[&id].commits.len();
    app.ask_for_frame(&window.surface);
    window.surface.commit();
    let count = app.events.frames.len();
    host.with(&mut app, "the idle frame", |_, events| {
        events.frames.len() > count
    });
    assert_eq!(host.windows[&id].commits.len(), commits);
}

#[test]
fn held_slots_are_not_drawn_into() {
    let (mut host, mut app, window, id) = shown();
    host.releases = false;
    let colour = |host: &Host| host.windows[&id].picture.at(3, 3) & 0xff_ffff;
    for (count, paint) in [(1, RED), (2, GREEN)] {
        app.paint(&window.surface, (100, 80), paint, PLAIN);
        window.surface.commit();
        host.with(&mut app, "a commit", |host, _| {
            host.windows[&id].commits.len() == 1 + count
        });
        assert_eq!(colour(&host), paint & 0xff_ffff);
    }
    // Both slots are now at the host; this one has to wait.
    app.paint(&window.surface, (100, 80), BLUE, PLAIN);
    window.surface.commit();
    app.roundtrip();
    host.send(&ToGuest::Ping { nonce: 9 });
    host.until("the pong", |host| host.pongs == [9]);
    assert_eq!(host.windows[&id].commits.len(), 3);

    let first = host.windows[&id].commits[1].clone();
    host.send(&ToGuest::Release {
        id,
        generation: first.generation,
        slot: first.slot,
    });
    host.with(&mut app, "the third commit", |host, _| {
        host.windows[&id].commits.len() == 4
    });
    assert_eq!(host.windows[&id].commits[3].slot, first.slot);
    assert_eq!(colour(&host), BLUE & 0xff_ffff);
}

#[test]
fn a_wish_names_the_press_that_caused_it() {
    let (mut host, mut app, window, id) = shown();
    host.point(id, 1, 1);
    let serial = host.button(true);
    host.with(&mut app, "the press", |_, events| {
        !events.presses.is_empty()
    });
    let press = app.events.presses[0];
    window.toplevel._move(&app.seat, press.wrapping_add(1000));
    window.toplevel._move(&app.seat, press);
    window.toplevel.set_maximized();
    host.with(&mut app, "the requests", |host, _| host.requests.len() == 2);
    assert_eq!(
        host.requests,
        [(id, Request::Move, serial), (id, Request::Maximize, serial)]
    );
    // The host moves the window and keeps the release; the app must not be left with a button down.
    host.send(&ToGuest::PointerLeave);
    host.point(id, 2, 2);
    host.button(true);
    host.with(&mut app, "the next press", |_, events| {
        events.presses.len() == 2
    });
}

#[test]
fn dialogs_outlive_their_owner() {
    let (mut host, mut app, window, id) = shown();
    let dialog = app.window("dialog");
    dialog.toplevel.set_parent(Some(&window.toplevel));
    host.with(&mut app, "the dialog", |host, _| {
        host.find(|window| window.title == "dialog").is_some()
    });
    let old = host.find(|window| window.title == "dialog").unwrap();
    let kind = WindowKind::Dialog { parent: id };
    assert_eq!(host.windows[&old].window.kind, kind);
    host.with(&mut app, "the dialog's configure", |_, events| {
        let numbers = [number(&window.surface), number(&dialog.surface)];
        numbers.iter().all(|number| {
            events
                .configured
                .iter()
                .any(|(surface, _)| surface == number)
        })
    });
    app.paint(&dialog.surface, (30, 20), RED, PLAIN);
    dialog.surface.commit();
    host.with(&mut app, "content of the dialog", |host, _| {
        host.windows[&old].shown
    });

    window.toplevel.destroy();
    window.xdg.destroy();
    host.with(&mut app, "the dialog by itself", |host, _| {
        let again = host.find(|window| window.title == "dialog");
        host.gone == [old, id] && again.is_some_and(|id| host.windows[&id].shown)
    });
    let new = host.find(|window| window.title == "dialog").unwrap();
    assert_ne!(new, old, "numbers are not used twice");
    assert_eq!(host.windows[&new].window.kind, WindowKind::Toplevel);
    assert_eq!(host.windows[&new].picture.size(), (30, 20));
}
