//! Real apps under the real program: a terminal and a GTK 4 program are shown, typed into, and survive the host.

mod support;

use casemate_window_wire::{ToGuest, WindowId, WindowKind};
use support::Host;

/// Linux input codes of `echo hi` and Enter, with `H` for the `h`.
const ECHO_HI: [u16; 7] = [18, 46, 35, 24, 57, 35, 23];
const ENTER: u16 = 28;
const LEFT_SHIFT: u16 = 42;

fn give_keyboard(host: &mut Host, id: WindowId) {
    host.send(&ToGuest::KeyEnter {
        id,
        held: Vec::new(),
        modifiers: [0; 4],
    });
}

/// Starts foot with a shell command; `None` when it is not installed.
fn foot(host: &mut Host, script: &str) -> Option<WindowId> {
    let mut command = host.app("foot");
    command.args(["--title", "first title", "sh", "-c", script]);
    if !host.launch(&mut command) {
        return None;
    }
    host.until("foot's window", |host| {
        host.find(|window| window.app_id == "foot").is_some()
    });
    host.find(|window| window.app_id == "foot")
}

#[test]
fn a_terminal_is_shown_and_typed_into() {
    let mut host = Host::start();
    host.wished = (640, 400);
    let out = host.path("typed");
    let script = format!("read line; echo \"$line\" > {}; sleep 1000", out.display());
    let Some(id) = foot(&mut host, &script) else {
        return;
    };
    assert_eq!(host.windows[&id].window.title, "first title");
    // Before it has any content: a terminal of Debian 12 would crash if it were passed on at once.
    give_keyboard(&mut host, id);
    host.until("content of the wished size", |host| {
        let seen = &host.windows[&id];
        seen.picture.size() == (640, 400) && seen.picture.colours() > 1
    });
    host.windows[&id].picture.keep("foot-before");

    let serial = host.serial();
    let shift = |pressed| ToGuest::Key {
        code: LEFT_SHIFT,
        pressed,
        serial,
        time_ms: serial,
    };
    for code in ECHO_HI {
        host.type_code(code);
    }
    host.send(&shift(true));
    host.type_code(35);
    host.send(&shift(false));
    host.type_code(ENTER);
    host.until("the line in the app", |_| {
        std::fs::read_to_string(&out).is_ok_and(|line| line.ends_with('\n'))
    });
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "echo hiH\n");
    host.until("the echo on the screen", |host| {
        host.windows[&id].picture.bright(0..80, 0..14) > 100
    });
    host.windows[&id].picture.keep("foot-after");
    let commits = &host.windows[&id].commits;
    let small = commits.iter().any(|commit| {
        let rects = &commit.damage;
        !rects.is_empty() && rects.iter().all(|rect| rect.height < 100)
    });
    assert!(small, "a typed character redraws no whole window");
    host.assert_apps_live();
}

#[test]
fn a_terminal_outlives_hosts() {
    let mut host = Host::start();
    host.wished = (640, 400);
    let Some(id) = foot(&mut host, "printf '\\033]2;other title\\007'; sleep 1000") else {
        return;
    };
    host.until("its new title and its content", |host| {
        let seen = &host.windows[&id];
        seen.window.title == "other title" && seen.picture.colours() > 1
    });
    let before = host.windows[&id].picture.clone();

    host.hang_up();
    host.accept();
    host.until("the same content at the next host", |host| {
        host.windows
            .values()
            .any(|seen| seen.window.title == "other title" && seen.picture == before)
    });

    host.send_bytes(&[0xff; 64]);
    host.until_dropped();
    host.accept();
    host.until(
        "the same content after a host that spoke nonsense",
        |host| host.windows.values().any(|seen| seen.picture == before),
    );
    host.send(&ToGuest::Ping { nonce: 77 });
    host.until("the pong", |host| host.pongs == [77]);
    host.assert_apps_live();
}

#[test]
fn resizing_a_terminal_follows_the_host() {
    let mut host = Host::start();
    let Some(id) = foot(&mut host, "sleep 1000") else {
        return;
    };
    host.until("content of its own size", |host| {
        host.windows[&id].shown && host.windows[&id].picture.width > 100
    });
    for (width, height) in [(500, 300), (700, 420)] {
        let serial = host.configure(id, width, height, true);
        host.until("content of that size", |host| {
            let seen = &host.windows[&id];
            let acked = seen
                .commits
                .last()
                .is_some_and(|last| last.ack_serial == serial);
            seen.picture.size() == (width, height) && acked
        });
    }
    host.send(&ToGuest::Close { id });
    host.until("the end of the window", |host| host.gone == [id]);
}

#[test]
fn a_gtk_program_is_shown_and_opens_its_menu() {
    let mut host = Host::start();
    let mut command = host.app("gtk4-widget-factory");
    if !host.launch(&mut command) {
        return;
    }
    host.until("its window with content", |host| {
        host.windows
            .values()
            .any(|seen| seen.shown && seen.picture.colours() > 100)
    });
    let id = host
        .find(|window| window.kind == WindowKind::Toplevel)
        .unwrap();
    give_keyboard(&mut host, id);
    // Larger than it must be, and than it would choose.
    let wished = (1800, 1000);
    host.configure(id, wished.0, wished.1, true);
    host.until("content of the wished size", |host| {
        host.windows[&id].picture.size() == wished
    });

    host.windows[&id].picture.keep("gtk");
    // The menu button, left of the close button at the right end of its title bar.
    host.point(id, 1728, 22);
    host.button(true);
    host.button(false);
    let menu = |host: &Host| {
        host.windows.iter().find_map(|(popup, seen)| {
            let kind = WindowKind::Popup {
                parent: id,
                grab: true,
            };
            (seen.window.kind == kind && seen.shown && seen.picture.colours() > 3).then_some(*popup)
        })
    };
    host.until("the menu", |host| menu(host).is_some());
    let popup = menu(&host).unwrap();
    host.windows[&popup].picture.keep("gtk-menu");

    host.send(&ToGuest::Close { id: popup });
    host.until("the end of the menu", |host| host.gone.contains(&popup));
    host.assert_apps_live();
}
