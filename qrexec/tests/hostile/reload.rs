//! Rules that change while calls come: each call is judged by one text or the other, never by a mixture.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use crate::house::{Agent, Broker};

/// Where `a` is allowed in line 1 and `b` denied in line 2.
pub(crate) const OLD: &str = "a * work vault allow notify=no\nb * work vault deny notify=no\n";
/// Where it is the other way round, two lines further down.
pub(crate) const NEW: &str =
    "#\n#\na * work vault deny notify=no\nb * work vault allow notify=no\n";

/// How many calls there are for each way of replacing.
const CALLS: usize = 60;

fn write_in_halves(place: &Path, text: &str) {
    let (head, tail) = text.split_at(text.len() / 2);
    fs::write(place, head).unwrap();
    fs::write(place, format!("{head}{tail}")).unwrap();
}

/// Puts a link into the place of a file, which is never away meanwhile: a person who removes a file takes its rules away.
pub(crate) fn link(to: &str, place: &Path) {
    let new = place.with_extension("new");
    symlink(to, &new).unwrap();
    fs::rename(new, place).unwrap();
}

/// Calls `service` once; says `result` and the line that decided.
fn call(
    broker: &Broker,
    (work, vault): (&mut Agent, &mut Agent),
    number: usize,
    service: &str,
) -> (String, String) {
    work.trigger("S", "vault", service.as_bytes());
    let decision = broker.decision(number);
    let result = decision["result"].as_str().unwrap().to_owned();
    if result == "allow" {
        let (served, _) = vault.executes();
        let client = work.connects("S");
        vault.send(&casemate_qrexec_wire::ToBroker::Terminated(served));
        work.send(&casemate_qrexec_wire::ToBroker::Terminated(client));
    } else {
        work.is_refused("S");
    }
    let rule = decision["rule"].as_str().unwrap();
    let line = rule.rsplit(':').next().unwrap_or_default().to_owned();
    (result, line)
}

#[test]
fn each_decision_is_that_of_the_old_text_or_of_the_new_one() {
    type Replace = fn(&Path, &str);
    let ways: [(&str, Replace); 3] = [
        ("rename", |place, text| {
            let new = place.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, place).unwrap();
        }),
        ("write over it", |place, text| {
            fs::write(place, text).unwrap();
        }),
        ("write in halves", write_in_halves),
    ];
    for (what, replace) in ways {
        let broker = Broker::start(OLD, &[]);
        let place = broker.path().join("policy/10.policy");
        let mut work = Agent::start(&broker, 3, 4);
        let mut vault = Agent::start(&broker, 4, 4);
        let replacing = {
            let place = place.clone();
            std::thread::spawn(move || {
                for turn in 0..200 {
                    replace(&place, if turn % 2 == 0 { NEW } else { OLD });
                }
            })
        };
        for number in 0..CALLS {
            let service = if number % 2 == 0 { "a" } else { "b" };
            let (result, line) = call(&broker, (&mut work, &mut vault), number, service);
            let known = match service {
                "a" => [("allow", "1"), ("deny", "3")],
                _ => [("deny", "2"), ("allow", "4")],
            };
            // A text that is half there has no rule for the call, or an error: that denies, too.
            let nothing = what != "rename" && result == "deny" && line.is_empty();
            let one = known.contains(&(result.as_str(), line.as_str()));
            assert!(one || nothing, "{what}: {service} {result} by line {line}");
        }
        replacing.join().unwrap();
        // What is there in the end holds at once.
        replace(&place, NEW);
        let last = call(&broker, (&mut work, &mut vault), CALLS, "b");
        assert_eq!(last, ("allow".to_owned(), "4".to_owned()), "{what}");
    }
}

#[test]
fn a_policy_that_cannot_be_used_opens_nothing() {
    type Break = fn(&Path);
    // What is done to the policy, and whether what was allowed before still is: only where an error can be told from a
    // person who takes rules away.
    let rows: [(&str, Break, bool); 7] = [
        (
            "a syntax error",
            |place| fs::write(place, "b * work vault permit\n").unwrap(),
            true,
        ),
        (
            "an empty file",
            |place| fs::write(place, "").unwrap(),
            false,
        ),
        ("no file", |place| fs::remove_file(place).unwrap(), false),
        ("a loop of links", |place| link("10.policy", place), true),
        ("a link to nowhere", |place| link("nowhere", place), true),
        (
            "bytes that are no text",
            |place| fs::write(place, b"b * work vault allow\n\xff\n").unwrap(),
            true,
        ),
        (
            "an error beside a deny",
            |place| fs::write(place, "a * work vault deny\nnonsense\n").unwrap(),
            false,
        ),
    ];
    for (what, spoil, still) in rows {
        let broker = Broker::start(OLD, &[]);
        let place = broker.path().join("policy/10.policy");
        let mut work = Agent::start(&broker, 3, 4);
        let mut vault = Agent::start(&broker, 4, 4);
        let mut ask = |number, service| call(&broker, (&mut work, &mut vault), number, service).0;
        assert_eq!(ask(0, "a"), "allow");
        spoil(&place);
        assert_eq!(ask(1, "b"), "deny", "{what}: what was denied stays so");
        assert_eq!(ask(2, "a"), if still { "allow" } else { "deny" }, "{what}");
        assert_eq!(ask(3, "c"), "deny", "{what}");
        let _ = fs::remove_file(&place);
        fs::write(&place, OLD).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(ask(4, "a"), "allow", "{what}: and it can be mended");
    }
}
