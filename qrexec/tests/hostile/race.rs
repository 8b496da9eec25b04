//! Rules that are replaced in every way that there is while thousand questions of each come: every decision is that of the
//! old text or of the new one.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Instant,
};

use crate::{
    house::{Broker, SOON, until},
    reload::{NEW, OLD, link},
};

/// How many questions there are for each way, at least.
const QUESTIONS: usize = 1000;

/// Who asks at the same time.
const ASKING: usize = 4;

/// How often the text is replaced meanwhile, at least.
const TURNS: usize = 20;

fn rename(text: &str, mode: u32, place: &Path) {
    let new = place.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(new, place).unwrap();
}

/// Puts a text into the place of another; most ways have something worse there for a moment.
type Replace = fn(&Path, &str);

const WAYS: [(&str, Replace); 7] = [
    ("rename", |place, text| rename(text, 0o600, place)),
    ("a partial write", |place, text| {
        let (head, tail) = text.split_at(text.len() / 2);
        let mut file = File::create(place).unwrap();
        file.write_all(head.as_bytes()).unwrap();
        thread::yield_now();
        file.write_all(tail.as_bytes()).unwrap();
    }),
    ("no permission", |place, text| {
        rename(text, 0o000, place);
        thread::yield_now();
        fs::set_permissions(place, fs::Permissions::from_mode(0o600)).unwrap();
    }),
    ("a syntax error", |place, text| {
        rename(&format!("{text}nonsense\n"), 0o600, place);
        thread::yield_now();
        rename(text, 0o600, place);
    }),
    ("0 bytes", |place, text| {
        rename("", 0o600, place);
        thread::yield_now();
        rename(text, 0o600, place);
    }),
    ("a loop of links", |place, text| {
        link("10.policy", place);
        thread::yield_now();
        rename(text, 0o600, place);
    }),
    ("a directory", |place, text| {
        let directory = place.with_extension("directory");
        fs::create_dir(&directory).unwrap();
        let exchange = || {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let here = rustix::fs::CWD;
            rustix::fs::renameat_with(here, &directory, here, place, flags).unwrap();
        };
        exchange();
        thread::yield_now();
        fs::write(&directory, text).unwrap();
        exchange();
        fs::remove_dir(&directory).unwrap();
    }),
];

/// One question; says whether it was allowed.
fn ask(socket: &Path, service: &str) -> bool {
    let mut stream = UnixStream::connect(socket).unwrap();
    let question = format!("source=work\nintended_target=vault\nservice_and_arg={service}+\n\n");
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    match answer.lines().find(|line| line.starts_with("result=")) {
        Some("result=allow") => true,
        Some("result=deny") => false,
        other => panic!("{other:?} in {answer:?}"),
    }
}

#[test]
fn no_decision_is_a_mixture_however_the_text_is_replaced() {
    for (what, replace) in WAYS {
        race(what, replace);
    }
}

fn race(what: &str, replace: Replace) {
    // Nobody may read whatever it likes.
    let broker = Broker::unprivileged(OLD, |dir| {
        let socket = dir.join("policy.sock").display().to_string();
        vec!["--policy-socket".to_owned(), socket]
    });
    let place = broker.path().join("policy/10.policy");
    let socket = broker.path().join("policy.sock");
    until("the policy socket", || UnixStream::connect(&socket).is_ok());
    // There is a good policy when it begins.
    assert!(ask(&socket, "a"), "{what}");
    let [asked, allowed, turns] = [1, 1, 0].map(AtomicUsize::new);
    let enough = AtomicBool::new(false);
    let deadline = Instant::now() + SOON;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(SeqCst) {
                let turn = turns.fetch_add(1, SeqCst);
                replace(&place, if turn % 2 == 0 { NEW } else { OLD });
            }
        });
        for number in 0..ASKING {
            let (asked, allowed, turns, socket) = (&asked, &allowed, &turns, &socket);
            let enough = &enough;
            scope.spawn(move || {
                let mut service = ["a", "b"].into_iter().cycle().skip(number);
                while asked.load(SeqCst) < QUESTIONS || turns.load(SeqCst) < TURNS {
                    assert!(Instant::now() < deadline, "{what} takes too long");
                    let yes = ask(socket, service.next().unwrap());
                    asked.fetch_add(1, SeqCst);
                    allowed.fetch_add(usize::from(yes), SeqCst);
                }
                enough.store(true, SeqCst);
            });
        }
    });

    let audit = broker.audit();
    assert_eq!(audit.len(), asked.load(SeqCst), "{what}");
    let mut seen = BTreeSet::new();
    for decision in &audit {
        let word = |key: &str| decision[key].as_str().unwrap();
        let line = word("rule").rsplit(':').next().unwrap();
        // A file that is cut off to be written anew has no rules until the kernel says that somebody writes.
        let is_empty =
            line.is_empty() && matches!(what, "0 bytes" | "a directory" | "a partial write");
        match (word("service"), word("result"), line) {
            ("a+", "allow", "1") | ("b+", "deny", "2") => seen.insert("old"),
            ("a+", "deny", "3") | ("b+", "allow", "4") => seen.insert("new"),
            // A file without rules, or none, is a text as good as any.
            (_, "deny", _) if is_empty => continue,
            _ => panic!("{what}: {decision}"),
        };
    }
    assert_eq!(
        seen.len(),
        2,
        "{what}: {seen:?} of {} decisions",
        audit.len()
    );
    let yes = audit
        .iter()
        .filter(|decision| decision["result"] == "allow");
    assert_eq!(yes.count(), allowed.load(SeqCst), "{what}");
    // What is there in the end holds at once.
    for (text, line) in [(OLD, "10.policy:1"), (NEW, "10.policy:3")] {
        replace(&place, text);
        ask(&socket, "a");
        let last = broker.audit().pop().unwrap();
        assert!(
            last["rule"].as_str().unwrap().ends_with(line),
            "{what}: {last}"
        );
    }
}
