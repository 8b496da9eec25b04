//! Questions that are overtaken: while the person thinks, rules, VMs and callers change.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use crate::house::{Agent, Broker, FACTS, until};

const ASK: &str = "s * work @anyvm ask default_target=vault\n";

/// A person who is a program: says that the question is there, waits until the test has changed something, answers.
struct Person {
    asked: PathBuf,
    go: PathBuf,
}

fn person(dir: &Path, answer: &str) -> (Person, Vec<String>) {
    let person = Person {
        asked: dir.join("asked"),
        go: dir.join("go"),
    };
    let program = dir.join("person");
    let text = format!(
        "#!/bin/sh\ncat > /dev/null\necho >> {asked}\nuntil [ -e {go} ]; do [ -e {asked} ] || exit; sleep 0.02; done\necho {answer}\n",
        asked = person.asked.display(),
        go = person.go.display(),
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let words = vec!["--ask-command".to_owned(), program.display().to_string()];
    (person, words)
}

fn asked(answer: &str) -> (Broker, Person) {
    let mut made = None;
    let broker = Broker::prepared(ASK, |dir| {
        let (person, words) = person(dir, answer);
        made = Some(person);
        words
    });
    (broker, made.unwrap())
}

impl Person {
    fn is_asked(&self) {
        until("the question", || self.asked.exists());
    }

    fn answers(&self) {
        fs::write(&self.go, "").unwrap();
    }
}

fn facts(broker: &Broker, from: &str, to: &str) {
    assert!(FACTS.contains(from));
    let new = broker.path().join("facts.new");
    fs::write(&new, FACTS.replace(from, to)).unwrap();
    fs::rename(new, broker.path().join("facts.json")).unwrap();
}

#[test]
fn what_changes_between_question_and_answer_counts() {
    type Change = fn(&Broker);
    let rows: [(&str, Change, Option<&str>); 9] = [
        ("nothing", |_| {}, None),
        (
            "the target is another VM of that name",
            |broker| facts(broker, r#""uuid":"2""#, r#""uuid":"9""#),
            Some("deny"),
        ),
        (
            "the target was renamed",
            |broker| facts(broker, r#""vault":"#, r#""safe":"#),
            Some("deny"),
        ),
        (
            "the target has no identity any more",
            |broker| facts(broker, r#","uuid":"2""#, ""),
            Some("deny"),
        ),
        (
            "policy denies",
            |broker| broker.policy("s * work @anyvm deny\n"),
            Some("deny"),
        ),
        (
            "policy denies this target",
            |broker| {
                broker.policy("s * work vault deny\ns * work @anyvm ask\n");
            },
            Some("deny"),
        ),
        (
            "policy allows another target",
            |broker| broker.policy("s * work @anyvm allow target=halted\n"),
            Some("deny"),
        ),
        (
            "policy allows just this target",
            |broker| broker.policy("s * work @anyvm allow target=vault\n"),
            None,
        ),
        (
            // The last good policy asks, and nothing that can be read denies.
            "policy has an error",
            |broker| broker.policy("s * work @anyvm nonsense\n"),
            None,
        ),
    ];
    for (what, change, refused) in rows {
        let (broker, person) = asked("allow:vault");
        let mut work = Agent::start(&broker, 3, 4);
        let mut vault = Agent::start(&broker, 4, 4);
        work.trigger("S1", "", b"s");
        person.is_asked();
        change(&broker);
        person.answers();
        match refused {
            Some(result) => {
                work.is_refused("S1");
                assert_eq!(broker.decision(0)["result"], result, "{what}");
            }
            None => {
                vault.executes();
                work.connects("S1");
                assert_eq!(broker.decision(0)["result"], "ask-allowed", "{what}");
            }
        }
    }
}

#[test]
fn answers_that_are_none_deny() {
    for answer in [
        "deny",
        "",
        "allow",
        "allow:",
        "allow:nowhere",
        "allow:work",
        "allow:dom0",
        "allow:@dispvm",
        "ALLOW:vault",
        "allow-for-ever:vault",
        "allow:vault extra",
    ] {
        let (broker, person) = asked(answer);
        let mut work = Agent::start(&broker, 3, 4);
        let _vault = Agent::start(&broker, 4, 4);
        work.trigger("S1", "", b"s");
        person.answers();
        work.is_refused("S1");
        let result = broker.decision(0)["result"].clone();
        assert!(
            result == "deny" || result == "ask-denied",
            "{answer}: {result}"
        );
    }
}

#[test]
fn a_caller_that_goes_or_a_target_that_goes_meets_no_answer() {
    let (broker, person) = asked("allow:vault");
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    work.trigger("S1", "", b"s");
    person.is_asked();
    // The VM is started again under the same number, and calls with the same ident.
    drop(work.control.shutdown(std::net::Shutdown::Both));
    work.again();
    work.hello(4);
    assert_eq!(broker.decision(0)["result"], "failed");
    broker.idle();
    person.answers();
    work.trigger("S1", "", b"s+second");
    let (params, command) = vault.executes();
    assert_eq!(command, "DEFAULT:QUBESRPC s+second work", "not the first");
    let client = work.connects("S1");
    assert_eq!((params.domain, client.domain), (3, 4));
    assert_eq!(broker.decision(1)["result"], "ask-allowed");
    assert_eq!(broker.audit().len(), 2);
}

#[test]
fn many_questions_of_one_vm_leave_another_its_own() {
    let policy = "s * @anyvm @anyvm ask\n";
    let mut made = None;
    let broker = Broker::prepared(policy, |dir| {
        let (person, words) = person(dir, "deny");
        made = Some(person);
        words
    });
    let person = made.unwrap();
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    const FLOOD: usize = 150;
    for number in 0..FLOOD {
        work.trigger(&format!("F{number}"), "vault", b"s");
    }
    // One is shown and four wait; more than 64 are not even judged. All others are refused by now.
    for _ in 0..FLOOD - 5 {
        assert!(work.next().is_some());
    }
    let waiting = broker.calls();
    assert_eq!(waiting.len(), 5);
    assert!(waiting.iter().all(|call| call.state == "asking"));
    vault.trigger("V", "work", b"s");
    until("the question of the other VM", || {
        fs::read_to_string(&person.asked)
            .unwrap_or_default()
            .lines()
            .count()
            == 2
    });
    person.answers();
    vault.is_refused("V");
    for _ in 0..5 {
        assert!(work.next().is_some());
    }
    broker.idle();
    let audit = broker.audit();
    let count = |result: &str| audit.iter().filter(|line| line["result"] == result).count();
    assert_eq!(count("ask-denied"), 6);
    let crowded = audit
        .iter()
        .filter(|line| line["reason"] == "too many questions of this VM wait already");
    assert_eq!(crowded.count(), audit.len() - 6);
}

/// The reference's policy socket: one question a connection.
#[test]
fn the_policy_socket_answers_whole_questions_and_keeps_a_record() {
    let policy = "\
a * work vault allow user=root
s * work @anyvm ask default_target=vault
";
    let mut place = None;
    let broker = Broker::prepared(policy, |dir| {
        let socket = dir.join("policy.sock");
        let words = ["--ask", "default", "--policy-socket"].map(str::to_owned);
        let words = words.into_iter().chain([socket.display().to_string()]);
        place = Some(socket);
        words.collect()
    });
    let place = place.unwrap();
    let ask = |lines: &str| {
        let mut stream = None;
        until("the policy socket", || {
            stream = UnixStream::connect(&place).ok();
            stream.is_some()
        });
        let mut stream = stream.unwrap();
        // One that is too long is not read to its end.
        let _sent = stream.write_all(lines.as_bytes());
        let _ended = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ended = stream.read_to_string(&mut answer);
        answer
    };
    let call = |service: &str, target: &str| {
        format!("source=work\nintended_target={target}\nservice_and_arg={service}\n")
    };
    let allowed = "user=root\nresult=allow\ntarget=vault\ntarget_uuid=2\nautostart=True\nrequested_target=vault\n";
    assert_eq!(ask(&format!("{}\n", call("a+", "vault"))), allowed);
    assert_eq!(ask(&format!("{}\n", call("b+", "vault"))), "result=deny\n");
    assert!(ask(&format!("{}\n", call("s+", ""))).contains("target=vault\n"));
    let just = format!("{}just_evaluate=yes\n\n", call("a+", "vault"));
    assert_eq!(ask(&just), allowed);
    let for_another = format!("{}requested_source=vault\n\n", call("a+", "vault"));
    assert_eq!(ask(&for_another), "result=deny\n");
    for broken in [
        String::new(),
        "\n\n".to_owned(),
        call("a+", "vault"),
        format!("{}source=vault\n\n", call("a+", "vault")),
        format!("{}user=root\n\n", call("a+", "vault")),
        "source=work\n\n".to_owned(),
        format!("{}{}\n\n", call("a+", "vault"), "x".repeat(200_000)),
    ] {
        assert_eq!(ask(&broken), "", "{:?}", broken.get(..60));
    }
    let audit = broker.audit();
    let results: Vec<_> = audit.iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, ["allow", "deny", "ask-allowed", "deny"]);
    assert!(audit[0]["rule"].as_str().unwrap().ends_with("10.policy:1"));
}
