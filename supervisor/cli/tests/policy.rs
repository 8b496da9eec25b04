//! `casemate policy`, as scripts and people use it: no daemon runs, rules and facts come from files.

#[path = "policy/edit.rs"]
mod edit;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const RULES: &str = "\
# Mail goes where it is asked for.
test.Mail * work bank deny
test.Mail * @tag:own @anyvm ask default_target=@dispvm
test.Mail +x @anyvm @default allow target=bank user=root
test.Run * work @dispvm allow autostart=yes notify=yes
";

struct House(tempfile::TempDir);

impl House {
    fn new(rules: &str) -> Self {
        let dir = tempfile::tempdir().expect("as set up");
        fs::create_dir(dir.path().join("p")).expect("as set up");
        fs::write(dir.path().join("p/10-a.policy"), rules).expect("as set up");
        let vm = |kind: &str, tags: &[&str], template: bool| {
            json!({"type": kind, "tags": tags, "power_state": "Running", "default_dispvm": "deb",
                "template_for_dispvms": template})
        };
        let facts = json!({"domains": {
            "work": vm("AppVM", &["own"], false),
            "bank": vm("AppVM", &[], false),
            "deb": vm("TemplateVM", &[], true),
        }});
        fs::write(dir.path().join("facts.json"), facts.to_string()).expect("as set up");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn policy(&self, arguments: &[&str], input: &str) -> Output {
        self.policy_with(arguments, input, "false")
    }

    /// The same with an editor, a shell command.
    fn policy_with(&self, arguments: &[&str], input: &str, editor: &str) -> Output {
        let (verb, rest) = arguments.split_first().expect("as set up");
        let mut child = Command::new(env!("CARGO_BIN_EXE_casemate"))
            .args(["policy", verb, "--policy-dir", "p", "--facts", "facts.json"])
            .args(rest)
            .current_dir(self.path())
            .env("XDG_RUNTIME_DIR", self.path())
            .env("TMPDIR", self.path())
            .env_remove("VISUAL")
            .env("EDITOR", editor)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("as set up");
        // A verb that reads nothing may have ended before.
        let _ = child
            .stdin
            .take()
            .expect("as set up")
            .write_all(input.as_bytes());
        child.wait_with_output().expect("as set up")
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("as set up")
}

#[test]
fn requests_are_answered_line_by_line() {
    let house = House::new(RULES);
    let requests = [
        json!({"service": "test.Mail", "argument": "+", "source": "work", "target": "bank"}),
        json!({"service": "test.Mail", "argument": "+", "source": "work", "target": ""}),
        json!({"service": "test.Mail", "argument": "+x", "source": "bank", "target": "@default"}),
        json!({"service": "test.Run", "argument": "+", "source": "work", "target": "@dispvm"}),
        json!({"service": "test.Run", "argument": "+", "source": "bank", "target": "@anyvm"}),
    ];
    let input: String = requests
        .iter()
        .map(|request| format!("{request}\n"))
        .collect();
    let output = house.policy(&["eval", "--json"], &input);
    assert_eq!(output.status.code(), Some(0));
    let answers: Vec<Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("as set up"))
        .collect();
    let rule = |line: u32| json!({"file": "p/10-a.policy", "line": line});
    let expected = [
        json!({"result": "deny", "target": null, "user": null, "notify": true, "autostart": null, "targets": [],
            "default_target": null, "rule": rule(2), "reason": "rule-deny"}),
        Value::Null,
        json!({"result": "deny", "target": null, "user": null, "notify": true, "autostart": null, "targets": [],
            "default_target": null, "rule": rule(4), "reason": "loopback"}),
        json!({"result": "allow", "target": "@dispvm:deb", "user": null, "notify": true, "autostart": true,
            "targets": [], "default_target": null, "rule": rule(5), "reason": null}),
        json!({"result": "deny", "target": null, "user": null, "notify": true, "autostart": null, "targets": [],
            "default_target": null, "rule": null, "reason": "invalid-target-token"}),
    ];
    assert_eq!(answers.len(), expected.len());
    // `@anyvm` holds for a call without target as well.
    assert_eq!(answers[1]["result"], "ask");
    assert_eq!(answers[1]["targets"], json!(["@dispvm:deb", "deb"]));
    assert_eq!(answers[1]["default_target"], "@dispvm:deb");
    for index in [0, 2, 3, 4] {
        assert_eq!(answers[index], expected[index], "request {index}");
    }
}

#[test]
fn what_is_no_request_is_answered_too() {
    let house = House::new(RULES);
    let good = json!({"service": "test.Mail", "argument": "+", "source": "work", "target": "bank"});
    let input =
        format!("nonsense\n\n{good}\n{{\"service\":\"s\",\"argument\":\"x\",\"source\":\"a\"}}\n");
    let output = house.policy(&["eval"], &input);
    assert_eq!(output.status.code(), Some(2));
    let text = out(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0].starts_with(r#"{"error":"this is no request"#),
        "{text}"
    );
    assert!(lines[1].contains(r#""result":"deny""#), "{text}");
    assert!(lines[2].contains("must begin with '+'"), "{text}");

    let broken = House::new("test.Mail * work bank oops\nnothing\n");
    let output = broken.policy(&["eval"], &input);
    assert_eq!(
        (output.status.code(), out(&output)),
        (Some(1), String::new())
    );
    let error = String::from_utf8(output.stderr).expect("as set up");
    assert!(
        error.contains("p/10-a.policy:1:23: 'oops' is no action"),
        "{error}"
    );
    assert!(error.contains("and 1 more"), "{error}");
}

#[test]
fn a_relay_speaks_for_its_remote_vm_and_carries_calls_to_it() {
    let house = House::new("test.Mail * far bank allow\ntest.Mail * work far allow user=root\n");
    let facts = json!({"domains": {
        "work": {"type": "AppVM", "power_state": "Running"},
        "bank": {"type": "AppVM", "power_state": "Running"},
        "far": {"type": "RemoteVM", "power_state": "Running", "relayvm": "bank", "transport_rpc": "x.Carry"},
    }});
    fs::write(house.path().join("facts.json"), facts.to_string()).expect("as set up");
    let ask = |source: &str, target: &str, speaks_for: Value| {
        let request = json!({"service": "test.Mail", "argument": "+a", "source": source, "target": target,
            "requested_source": speaks_for});
        let output = house.policy(&["eval"], &request.to_string());
        serde_json::from_slice::<Value>(&output.stdout).expect("an answer")
    };
    let answer = ask("work", "far", Value::Null);
    assert_eq!(
        (&answer["result"], &answer["target"], &answer["user"]),
        (&json!("allow"), &json!("far"), &json!("root"))
    );
    let relay = json!({"target": "bank", "service": "x.Carry+far+test.Mail+a"});
    assert_eq!(answer["relay"], relay);
    // The bank may speak for its remote VM and is then judged as that; nobody else may.
    assert_eq!(ask("bank", "bank", json!("far"))["result"], "allow");
    assert_eq!(ask("bank", "bank", json!(""))["reason"], "no-match");
    let refused = ask("work", "bank", json!("far"));
    assert_eq!(refused["reason"], "invalid-requested-source");
    assert!(refused.get("relay").is_none(), "{refused}");
}

#[test]
fn lint_names_every_place() {
    let house = House::new("s * work bnak allow\ns * work\ns * @anyvm @anyvm oops\n");
    let output = house.policy(&["lint"], "");
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    let starts = [
        "p/10-a.policy:2:1: ",
        "p/10-a.policy:3:19: 'oops'",
        "p/10-a.policy:1:10: there is no VM 'bnak'",
    ];
    assert_eq!(text.lines().count(), starts.len(), "{text}");
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start), "{text}");
    }
    let output = house.policy(&["lint", "--syntax-only"], "");
    assert_eq!(
        (output.status.code(), out(&output).lines().count()),
        (Some(1), 2)
    );

    let fine = House::new("s * work bnak allow\n");
    assert_eq!(
        fine.policy(&["lint", "--syntax-only"], "").status.code(),
        Some(0)
    );
    assert_eq!(fine.policy(&["lint"], "").status.code(), Some(1));
    fs::write(fine.path().join("p/Bad.policy"), "").expect("as set up");
    let output = fine.policy(&["lint", "--syntax-only"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out(&output).starts_with("p/Bad.policy: "),
        "{}",
        out(&output)
    );
    fs::remove_dir_all(fine.path().join("p")).expect("as set up");
    assert_eq!(fine.policy(&["lint"], "").status.code(), Some(3));
}

#[test]
fn a_decision_is_explained() {
    let house = House::new(RULES);
    let output = house.policy(&["explain", "work", "test.Run", "@dispvm"], "");
    assert_eq!(output.status.code(), Some(0));
    let text = out(&output);
    for part in [
        "work calls test.Run+ and asks for @dispvm",
        "answer: allow, in @dispvm:deb",
        "decided by p/10-a.policy:5: test.Run * work @dispvm allow",
        "is about test.Mail, not test.Run",
        "without p/10-a.policy:5 no rule would match: deny",
        "other targets are answered otherwise: bank (deny)",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let output = house.policy(&["explain", "--json", "bank", "test.Mail", "work"], "");
    let told: Value = serde_json::from_slice(&output.stdout).expect("as set up");
    assert_eq!(
        (&told["result"], &told["reason"]),
        (&json!("deny"), &json!("no-match"))
    );
    assert_eq!(told["passed"].as_array().expect("as set up").len(), 4);
    assert_eq!(
        house.policy(&["explain", "work"], "").status.code(),
        Some(2)
    );
}

#[test]
fn expectations_are_checked_and_written_as_tap() {
    let house = House::new(RULES);
    let write = |text: &str| fs::write(house.path().join("own.test"), text).expect("as set up");
    write(
        "# mine\nwork test.Mail bank deny\nwork test.Mail @default ask=deb\nwork test.Run @dispvm allow=@dispvm:deb\n",
    );
    let output = house.policy(&["test", "own.test"], "");
    assert_eq!(output.status.code(), Some(0));
    assert!(out(&output).starts_with("TAP version 13\n1..3\nok 1 - work test.Mail+ bank deny\n"));
    write("work test.Mail bank allow\n");
    let output = house.policy(&["test", "own.test"], "");
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    assert!(text.contains("not ok 1 - "), "{text}");
    assert!(
        text.contains("# is deny (rule-deny), by p/10-a.policy:2"),
        "{text}"
    );
    for wrong in [
        "work test.Mail bank maybe\n",
        "work test.Mail\n",
        "",
        "a b c deny=x\n",
    ] {
        write(wrong);
        assert_eq!(
            house.policy(&["test", "own.test"], "").status.code(),
            Some(2),
            "{wrong}"
        );
    }
    assert_eq!(house.policy(&["test", "gone"], "").status.code(), Some(3));
}

#[test]
fn who_reaches_whom_is_a_table_and_a_graph() {
    let house = House::new(RULES);
    let ways: Value =
        serde_json::from_slice(&house.policy(&["reach", "--json"], "").stdout).expect("as set up");
    let all: Vec<String> = ways
        .as_array()
        .expect("as set up")
        .iter()
        .map(|way| {
            format!(
                "{} {}{} {} {}",
                way["source"], way["service"], way["argument"], way["target"], way["result"]
            )
            .replace('"', "")
        })
        .collect();
    for way in [
        "work test.Run @dispvm:deb allow",
        "work test.Mail @dispvm:deb ask",
        "work test.Mail deb ask",
        "deb test.Mail+x bank allow",
    ] {
        assert!(
            all.iter().any(|line| line == way),
            "{way} is not in {all:#?}"
        );
    }
    assert!(
        !all.iter()
            .any(|line| line.starts_with("work test.Mail bank")),
        "{all:#?}"
    );
    let table = out(&house.policy(&["reach", "--from", "work"], ""));
    assert!(table.starts_with("FROM  SERVICE"), "{table}");
    assert!(!table.contains("\ndeb "), "{table}");
    let graph = out(&house.policy(&["reach", "--dot"], ""));
    assert!(
        graph.starts_with("digraph policy {") && graph.trim_end().ends_with('}'),
        "{graph}"
    );
    assert!(
        graph.contains(r#""work" -> "@dispvm:deb" [label="test.Run"];"#),
        "{graph}"
    );
}
