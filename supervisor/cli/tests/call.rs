//! `casemate call` against a broker on a real bus.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "there is no supervisor here")]
mod fixture;

use std::fs;

use casemate_api::{Bus, Error, Grant, LiveCall};
use fixture::{Asked, Home, text};
use tokio::{net::UnixListener, runtime::Runtime};

#[derive(Clone)]
struct Broker(Asked);

#[zbus::interface(name = "org.casemate.Qrexec1")]
impl Broker {
    fn calls(&self) -> Vec<LiveCall> {
        let waits = LiveCall {
            id: 3,
            source: "work".to_owned(),
            requested: "@dispvm".to_owned(),
            target: String::new(),
            service: "qubes.OpenInVM+".to_owned(),
            state: "asking".to_owned(),
            since: 0,
            rule: String::new(),
        };
        let runs = LiveCall {
            id: 4,
            source: "dom0".to_owned(),
            requested: "work".to_owned(),
            target: "work".to_owned(),
            service: "printf '\u{1b}[31m'".to_owned(),
            state: "running".to_owned(),
            since: 60,
            rule: "/p/30.policy:7".to_owned(),
        };
        vec![waits, runs]
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant {
            id: 12,
            source: "work".to_owned(),
            requested: "@dispvm".to_owned(),
            target: "@dispvm:debian-12".to_owned(),
            service: "qubes.OpenInVM+".to_owned(),
            left: 125,
        }]
    }

    fn revoke_grant(&self, grant: u64) -> Result<(), Error> {
        self.0.lock().unwrap().push(format!("revoke {grant}"));
        match grant {
            12 => Ok(()),
            _ => Err(Error::NotFound(format!("no grant {grant} holds"))),
        }
    }

    fn revoke_grants(&self) -> u32 {
        self.0.lock().unwrap().push("revoke all".to_owned());
        1
    }

    fn kill_call(&self, call: u64) -> Result<(), Error> {
        self.0.lock().unwrap().push(format!("kill {call}"));
        match call {
            4 => Ok(()),
            5 => Err(Error::WrongState("out of reach".to_owned())),
            _ => Err(Error::NotFound(format!("there is no live call {call}"))),
        }
    }
}

/// A home whose only daemon is the broker.
fn home() -> (Home, Runtime) {
    let home = Home::without_supervisor();
    let path = Bus::Qrexec.socket(&home.dir.path().join("casemate"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let runtime = Runtime::new().unwrap();
    let broker = Broker(Asked::clone(&home.asked));
    let listener = runtime.block_on(async { UnixListener::bind(&path).unwrap() });
    runtime.spawn(async move {
        let mut clients = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(connection) = Bus::Qrexec.serve(stream, broker.clone()).await {
                clients.push(connection);
            }
        }
    });
    (home, runtime)
}

#[test]
fn live_calls_are_listed() {
    let (home, _runtime) = home();
    let output = home.run(&["call", "ls"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for line in [
        "ID  SOURCE  TARGET   SERVICE          STATE    SINCE (UTC)          RULE",
        "3   work    @dispvm  qubes.OpenInVM+  asking   1970-01-01 00:00:00",
        "4   dom0    work     printf '_[31m'   running  1970-01-01 00:01:00  /p/30.policy:7",
    ] {
        assert!(table.lines().any(|shown| shown == line), "{table}");
    }
    let output = home.run(&["call", "ls", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut keys: Vec<&String> = list[0].as_object().unwrap().keys().collect();
    keys.sort();
    let expected = [
        "id",
        "requested",
        "rule",
        "service",
        "since",
        "source",
        "state",
        "target",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (list[1]["id"].as_u64(), list[1]["state"].as_str()),
        (Some(4), Some("running"))
    );
}

#[test]
fn a_call_is_killed_by_its_number() {
    let (home, _runtime) = home();
    for (id, code) in [("4", 0), ("5", 4), ("9", 3), ("x", 2), ("-1", 2)] {
        let output = home.run(&["call", "kill", id]);
        assert_eq!(output.status.code(), Some(code), "{id}");
        let said = text(&output.stderr);
        assert_eq!(said.is_empty(), code == 0, "{id}: {said}");
    }
    assert_eq!(home.asked(), ["kill 4", "kill 5", "kill 9"]);
    let without = Home::without_supervisor();
    let output = without.run(&["call", "ls"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("casemate-qrexec does not run"));
}

#[test]
fn grants_are_listed_and_taken_back() {
    let (home, _runtime) = home();
    let output = home.run(&["call", "grants"]);
    let table = text(&output.stdout);
    let line = "12  work    @dispvm   @dispvm:debian-12  qubes.OpenInVM+  2 min 05 s";
    assert!(table.lines().any(|shown| shown == line), "{table}");
    let output = home.run(&["call", "grants", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        list,
        serde_json::json!([{
            "id": 12, "source": "work", "requested": "@dispvm", "target": "@dispvm:debian-12",
            "service": "qubes.OpenInVM+", "left": 125,
        }])
    );
    for (words, code) in [
        (&["12"][..], 0),
        (&["13"], 3),
        (&["--all"], 0),
        (&[], 2),
        (&["12", "--all"], 2),
    ] {
        let line: Vec<&str> = ["call", "revoke"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        assert_eq!(home.run(&line).status.code(), Some(code), "{words:?}");
    }
    assert_eq!(home.asked(), ["revoke 12", "revoke 13", "revoke all"]);
}
