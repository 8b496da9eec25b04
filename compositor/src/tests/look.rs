//! How it looks. With `CASEMATE_PICTURES=DIR` in the environment the pictures are kept for a person to look at.

use casemate_api::{AskTarget, Notice, Question};
use casemate_vm::Label;
use casemate_window_wire::WindowKind;

use super::fixture::{Fixture, Guest};
use crate::{
    bus,
    geometry::{Point, Rect},
    prompt::ARM,
};

fn keep(fixture: &Fixture, name: &str) {
    if let Some(directory) = std::env::var_os("CASEMATE_PICTURES") {
        let path = std::path::Path::new(&directory).join(name);
        let file = std::fs::File::create(path).unwrap();
        bus::write_png(fixture.desktop.frame(), file).unwrap();
    }
}

/// Stripes, so that something is in the windows.
fn paper(guest: &mut Guest, fixture: &mut Fixture, id: u32, ground: u32, ink: u32) {
    let grant = guest.grant(id);
    let (w, h) = (
        i32::try_from(grant.width).unwrap(),
        i32::try_from(grant.height).unwrap(),
    );
    guest.paint(&grant, 1, Rect { x: 0, y: 0, w, h }, ground);
    for line in 0..(h - 40) / 18 {
        let w = (w - 60) * (3 + (line * 5) % 7) / 10;
        let rect = Rect {
            x: 20,
            y: 20 + line * 18,
            w,
            h: 6,
        };
        guest.paint(&grant, 1, rect, ink);
    }
    guest.commit(&grant, 1, &[]);
    fixture.settle(&mut [guest]);
}

#[test]
fn a_desk_with_two_vms_a_menu_and_a_question() {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    let mut untrusted = fixture.guest("untrusted", Label::Red);
    work.toplevel(&mut fixture, 1, "foot", (640, 400), 0);
    paper(&mut work, &mut fixture, 1, 0x0024_2424, 0x00d0_d0d0);
    untrusted.toplevel(
        &mut fixture,
        1,
        "Widget Factory – a rather long title that goes on",
        (520, 460),
        0,
    );
    paper(&mut untrusted, &mut fixture, 1, 0x00fa_fafa, 0x0050_5860);
    let mut vault = fixture.guest("vault", Label::Black);
    vault.toplevel(&mut fixture, 1, "keys.txt", (300, 160), 0);
    paper(&mut vault, &mut fixture, 1, 0x00ff_fff0, 0x0030_3030);
    let mut bank = fixture.guest("banking", Label::Green);
    bank.toplevel(&mut fixture, 1, "Überweisung", (260, 120), 0);
    paper(&mut bank, &mut fixture, 1, 0x00f0_fff0, 0x0030_3030);
    let content = fixture.place("untrusted", 1);
    fixture.click(Point::new(content.x + 50, content.y + 50));
    untrusted.declare(
        2,
        WindowKind::Popup {
            parent: casemate_window_wire::WindowId(1),
            grab: true,
        },
        "",
    );
    untrusted.say(&super::windows::menu_position(2, (60, 60), (180, 140)));
    untrusted.show(&mut fixture, 2, (180, 140), 0);
    paper(&mut untrusted, &mut fixture, 2, 0x00ff_ffff, 0x0060_6060);
    let notice = Notice {
        kind: "denied".to_owned(),
        text: "qubes.Filecopy from untrusted to vault was denied by policy".to_owned(),
    };
    fixture.desktop.notify(&notice, fixture.now);
    fixture.settle(&mut [&mut untrusted]);
    keep(&fixture, "desk.png");
    let target = |name: &str, label: &str| AskTarget {
        name: name.to_owned(),
        label: label.to_owned(),
    };
    let question = Question {
        source: target("work", "blue"),
        service: "qubes.Filecopy".to_owned(),
        argument: "+".to_owned(),
        targets: vec![
            target("untrusted", "red"),
            target("banking", "green"),
            target("@dispvm:debian-12", "red"),
        ],
        default_target: "untrusted".to_owned(),
    };
    let (reply, _answer) = tokio::sync::oneshot::channel();
    fixture
        .desktop
        .ask(question.try_into().unwrap(), reply, fixture.now)
        .unwrap();
    fixture.settle(&mut [&mut untrusted]);
    keep(&fixture, "question.png");
    let before: Vec<u8> = fixture.desktop.frame().pixels.clone();
    fixture.pass(ARM);
    fixture.settle(&mut [&mut untrusted]);
    keep(&fixture, "question-armed.png");
    assert_ne!(before, fixture.desktop.frame().pixels, "Allow lights up");
}
