//! Questions: who gets input while one is shown, and what allowing takes.

use std::time::Duration;

use casemate_api::{Answer, AskTarget, Question};
use casemate_vm::Label;
use casemate_window_wire::ToGuest;
use tokio::sync::oneshot;

use super::fixture::{Fixture, Guest};
use crate::{geometry::Point, input::keys, prompt::ARM};

const A: u16 = 30;
const ALMOST: Duration = Duration::from_millis(999);
const REST: Duration = Duration::from_millis(1);

fn ask(fixture: &mut Fixture, default: &str) -> oneshot::Receiver<Answer> {
    let target = |name: &str, label: &str| AskTarget {
        name: name.to_owned(),
        label: label.to_owned(),
    };
    let question = Question {
        source: target("work", "blue"),
        service: "qubes.Filecopy".to_owned(),
        argument: "+".to_owned(),
        targets: vec![target("untrusted", "red"), target("vault", "black")],
        default_target: default.to_owned(),
    };
    let (reply, answer) = oneshot::channel();
    let question = question.try_into().unwrap();
    fixture.desktop.ask(question, reply, fixture.now).unwrap();
    fixture.settle(&mut []);
    answer
}

fn allowed(target: &str) -> Answer {
    Answer {
        allowed: true,
        target: target.to_owned(),
        for_a_while: false,
    }
}

fn denied() -> Answer {
    Answer {
        allowed: false,
        target: String::new(),
        for_a_while: false,
    }
}

fn asked(default: &str) -> (Fixture, Guest, oneshot::Receiver<Answer>) {
    let mut fixture = Fixture::new();
    let mut work = fixture.guest("work", Label::Blue);
    work.toplevel(&mut fixture, 1, "", (600, 400), 1);
    let answer = ask(&mut fixture, default);
    fixture.settle(&mut [&mut work]);
    (fixture, work, answer)
}

#[test]
fn no_input_reaches_a_vm_while_a_question_is_shown() {
    let (mut fixture, mut work, mut answer) = asked("untrusted");
    assert_eq!(work.heard.last(), Some(&ToGuest::KeyLeave));
    work.heard.clear();
    fixture.press(A);
    fixture.click(Point::new(100, 120));
    fixture.settle(&mut [&mut work]);
    assert_eq!(work.heard, []);
    assert!(answer.try_recv().is_err());
    fixture.press(keys::ESC);
    fixture.settle(&mut [&mut work]);
    assert_eq!(answer.try_recv(), Ok(denied()));
    assert!(matches!(
        work.heard.first(),
        Some(ToGuest::KeyEnter { held, .. }) if held.is_empty()
    ));
    fixture.press(A);
    fixture.settle(&mut [&mut work]);
    assert_eq!(work.pressed_keys(), [A]);
}

#[test]
fn allowing_takes_a_second_of_undisturbed_focus() {
    let (mut fixture, _work, mut answer) = asked("untrusted");
    fixture.press(keys::TAB);
    fixture.pass(ALMOST);
    fixture.press(keys::ENTER);
    assert!(answer.try_recv().is_err(), "too early");
    fixture.pass(ALMOST);
    fixture.press(A);
    fixture.pass(REST);
    fixture.press(keys::ENTER);
    assert!(answer.try_recv().is_err(), "typing starts the time again");
    fixture.pass(ARM);
    fixture.press(keys::ENTER);
    assert_eq!(answer.try_recv(), Ok(allowed("untrusted")));
}

#[test]
fn enter_denies_unless_allow_was_chosen() {
    let (mut fixture, _work, mut answer) = asked("untrusted");
    fixture.pass(ARM);
    fixture.press(keys::ENTER);
    assert_eq!(answer.try_recv(), Ok(denied()));
}

#[test]
fn nothing_is_allowed_without_a_chosen_target() {
    let (mut fixture, _work, mut answer) = asked("");
    fixture.pass(ARM);
    fixture.press(keys::RIGHT);
    fixture.press(keys::ENTER);
    assert!(answer.try_recv().is_err());
    fixture.press(keys::DOWN);
    fixture.press(keys::DOWN);
    fixture.press(keys::ENTER);
    assert_eq!(answer.try_recv(), Ok(allowed("vault")));
}

#[test]
fn the_mouse_allows_only_the_lit_button() {
    let (mut fixture, _work, mut answer) = asked("untrusted");
    let [_, allow, _] = fixture.desktop.prompts().buttons().unwrap();
    fixture.pass(ALMOST);
    fixture.click(allow);
    assert!(answer.try_recv().is_err());
    fixture.pass(REST);
    fixture.click(allow);
    assert_eq!(answer.try_recv(), Ok(allowed("untrusted")));
    let mut answer = ask(&mut fixture, "untrusted");
    let [deny, _, _] = fixture.desktop.prompts().buttons().unwrap();
    fixture.click(deny);
    assert_eq!(answer.try_recv(), Ok(denied()));
}

#[test]
fn a_while_is_a_button_of_its_own_and_takes_the_same_second() {
    let for_a_while = Answer {
        for_a_while: true,
        ..allowed("untrusted")
    };
    let (mut fixture, _work, mut answer) = asked("untrusted");
    let [_, _, button] = fixture.desktop.prompts().buttons().unwrap();
    fixture.pass(ALMOST);
    fixture.click(button);
    fixture.press(keys::RIGHT);
    fixture.press(keys::RIGHT);
    fixture.press(keys::ENTER);
    assert!(answer.try_recv().is_err(), "too early");
    fixture.pass(ARM);
    fixture.press(keys::ENTER);
    assert_eq!(answer.try_recv(), Ok(for_a_while.clone()));

    let mut answer = ask(&mut fixture, "untrusted");
    fixture.pass(ARM);
    fixture.press(keys::RIGHT);
    fixture.press(keys::RIGHT);
    fixture.press(keys::RIGHT);
    fixture.press(keys::LEFT);
    fixture.press(keys::ENTER);
    assert_eq!(answer.try_recv(), Ok(allowed("untrusted")), "one back");

    let mut answer = ask(&mut fixture, "untrusted");
    fixture.pass(ARM);
    for _ in 0..3 {
        fixture.press(keys::TAB);
    }
    fixture.press(keys::ENTER);
    assert_eq!(answer.try_recv(), Ok(denied()), "all the way round");

    let mut answer = ask(&mut fixture, "");
    let [_, _, button] = fixture.desktop.prompts().buttons().unwrap();
    fixture.pass(ARM);
    fixture.click(button);
    assert!(answer.try_recv().is_err(), "nothing was chosen");
    fixture.press(keys::DOWN);
    fixture.click(button);
    assert_eq!(answer.try_recv(), Ok(for_a_while));
}

#[test]
fn questions_come_one_by_one_each_with_its_own_second() {
    let (mut fixture, _work, mut first) = asked("untrusted");
    let mut second = ask(&mut fixture, "vault");
    fixture.pass(ARM);
    fixture.press(keys::RIGHT);
    fixture.press(keys::ENTER);
    assert_eq!(first.try_recv(), Ok(allowed("untrusted")));
    fixture.press(keys::RIGHT);
    fixture.press(keys::ENTER);
    assert!(second.try_recv().is_err(), "the second was not read yet");
    fixture.pass(ARM);
    fixture.press(keys::ENTER);
    assert_eq!(second.try_recv(), Ok(allowed("vault")));
}

#[test]
fn a_question_that_nobody_waits_for_goes_away() {
    let (mut fixture, mut work, answer) = asked("untrusted");
    drop(answer);
    fixture.settle(&mut [&mut work]);
    assert!(!fixture.desktop.prompts().shown());
    assert_eq!(fixture.focused(), Some(("work".to_owned(), 1)));
}

#[test]
fn one_source_cannot_queue_without_end() {
    let (mut fixture, _work, _first) = asked("untrusted");
    let _waiting: Vec<_> = (0..4).map(|_| ask(&mut fixture, "untrusted")).collect();
    let target = AskTarget {
        name: "work".to_owned(),
        label: "blue".to_owned(),
    };
    let question = Question {
        source: target.clone(),
        service: "x".to_owned(),
        argument: "+".to_owned(),
        targets: vec![target],
        default_target: String::new(),
    };
    let (reply, _answer) = oneshot::channel();
    let result = fixture
        .desktop
        .ask(question.clone().try_into().unwrap(), reply, fixture.now);
    assert!(result.is_err());
    let other = Question {
        source: AskTarget {
            name: "vault".to_owned(),
            label: "black".to_owned(),
        },
        ..question
    };
    let (reply, _answer) = oneshot::channel();
    let result = fixture
        .desktop
        .ask(other.try_into().unwrap(), reply, fixture.now);
    assert!(result.is_ok(), "another source may still ask");
}
