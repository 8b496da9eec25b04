//! What the verbs print, where, and with which exit codes they end.

mod fixture;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use fixture::{Home, text};

#[test]
fn lists_are_stable_for_scripts_and_harmless_for_terminals() {
    let home = Home::new();
    let output = home.run(&["ls", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut keys: Vec<&String> = list[1].as_object().unwrap().keys().collect();
    keys.sort();
    let expected = [
        "audio",
        "id",
        "kind",
        "label",
        "memory_mib",
        "name",
        "pid",
        "problem",
        "recording",
        "revision",
        "state",
        "tags",
        "template",
        "vcpus",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (list[1]["name"].as_str(), list[1]["pid"].as_u64()),
        (Some("work"), Some(4242))
    );

    let output = home.run(&["ls"]);
    assert!(text(&output.stdout).contains("work    running  blue   debian-12  app"));
    assert!(
        !text(&output.stdout).contains("broken.toml"),
        "stdout carries data only"
    );
    assert!(text(&output.stderr).contains("vms/broken.toml:3: _[31mbad"));

    let output = home.run(&["show", "work", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (shown["version"].as_u64(), shown["label"].as_str()),
        (Some(1), Some("blue"))
    );
    assert_eq!(home.run(&["show", "nobody"]).status.code(), Some(3));

    let output = home.run(&["template", "ls"]);
    assert!(text(&output.stdout).contains("1970-01-01 00:00:00"));
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_one_line() {
    let home = Home::new();
    for (name, code) in [
        ("failed", 1),
        ("usage", 2),
        ("notfound", 3),
        ("wrongstate", 4),
        ("denied", 5),
        ("refused", 6),
        ("busy", 7),
        ("noresources", 8),
        ("timedout", 124),
        ("fine", 0),
    ] {
        let output = home.run(&["start", name]);
        assert_eq!(output.status.code(), Some(code), "{name}");
        let said = text(&output.stderr);
        let errors: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("casemate: "))
            .collect();
        assert_eq!(errors.len(), usize::from(code != 0), "{said}");
    }
    let output = home.run(&["start", "fine", "busy", "denied"]);
    assert_eq!(output.status.code(), Some(7), "the first failure decides");
    assert!(text(&output.stderr).contains("'denied' will not"));
    assert_eq!(
        home.run(&["create", "x", "-t", "t", "-l", "pink"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn a_definition_reaches_the_supervisor() {
    let home = Home::new();
    let line = [
        "create",
        "work",
        "--template",
        "debian-12",
        "--label",
        "blue",
        "--memory",
        "2G",
        "--vcpus",
        "2",
        "--tag",
        "mail",
        "--tag",
        "office",
    ];
    assert_eq!(home.run(&line).status.code(), Some(0));
    let asked = home.asked().join("");
    for part in [
        "\"work\"",
        "\"debian-12\"",
        "\"blue\"",
        "memory_mib: 2048",
        "vcpus: 2",
        "private_mib: 0",
        "tags: [\"mail\", \"office\"]",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
}

#[test]
fn recording_is_granted_taken_back_and_shown() {
    let home = Home::new();
    for (words, code) in [
        (["recording", "grant", "work"], 0),
        (["recording", "grant", "nobody"], 3),
        (["recording", "grant", "broken"], 4),
        (["recording", "revoke", "work"], 0),
        (["recording", "revoke", "nobody"], 3),
    ] {
        assert_eq!(home.run(&words).status.code(), Some(code), "{words:?}");
    }
    assert_eq!(home.run(&["recording", "grant"]).status.code(), Some(2));
    assert_eq!(home.asked(), ["record work", "record no more work"]);

    let output = home.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["mixer"], true);
    assert_eq!(status["recording"], serde_json::json!(["work"]));
    assert_eq!(status["sound_problem"], "PipeWire does not answer");
    let output = home.run(&["status"]);
    for line in [
        "casemate-sound       runs: PipeWire does not answer",
        "records              work",
    ] {
        assert!(
            text(&output.stdout).contains(line),
            "{}",
            text(&output.stdout)
        );
    }
    let output = home.run(&["show", "work"]);
    assert!(text(&output.stdout).contains("plays and records"));
}

#[test]
fn tags_are_put_on_taken_off_and_listed() {
    let home = Home::new();
    let output = home.run(&["tag", "add", "work", "mail", "bank"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "mail bank\n");
    assert_eq!(
        home.run(&["tag", "remove", "work", "mail"]).status.code(),
        Some(0)
    );
    assert_eq!(
        home.asked(),
        [r#"tag +["mail", "bank"] -[]"#, r#"tag +[] -["mail"]"#]
    );
    let output = home.run(&["tag", "ls", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["work"], serde_json::json!(["mail", "office"]));
    let output = home.run(&["tag", "ls", "work"]);
    assert!(text(&output.stdout).contains("work  mail office"));
    for (words, code) in [
        (["tag", "add", "work", "no way"], 2),
        (["tag", "add", "work", ""], 2),
        (["tag", "add", "nobody", "mail"], 3),
    ] {
        assert_eq!(home.run(&words).status.code(), Some(code), "{words:?}");
    }
    assert_eq!(home.run(&["tag", "ls", "nobody"]).status.code(), Some(3));
    assert_eq!(home.run(&["tag", "add", "work"]).status.code(), Some(2));
}

#[test]
fn nothing_is_removed_unasked() {
    let home = Home::new();
    assert_eq!(home.run(&["remove", "work"]).status.code(), Some(2));
    assert!(home.asked().is_empty());
    assert_eq!(
        home.run(&["remove", "--yes", "work"]).status.code(),
        Some(0)
    );
    assert_eq!(home.asked(), ["remove work"]);
}

#[test]
fn a_program_gets_its_words_and_gives_its_output_and_code() {
    let home = Home::new();
    let output = home.run(&[
        "run",
        "-u",
        "root",
        "work",
        "--",
        "sh",
        "-c",
        "echo 'a'; exit 7",
    ]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text(&output.stdout), "to stdout\n");
    assert_eq!(text(&output.stderr), "to stderr\n");
    assert_eq!(home.asked(), [r"root:sh -c 'echo '\''a'\''; exit 7'"]);
}

#[test]
fn many_bytes_come_back_as_they_went() {
    let home = Home::new();
    let bytes: Vec<u8> = (0u32..6_000_000).flat_map(u32::to_le_bytes).collect();
    let output = home.run_with_input(&["run", "work", "--", "cat"], bytes.clone());
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stdout == bytes,
        "{} of {} bytes",
        output.stdout.len(),
        bytes.len()
    );
}

#[test]
fn failures_around_a_program_are_told_from_its_own() {
    let home = Home::new();
    for (name, command, code) in [
        ("nobody", "cat", 125),
        ("work", "deaf", 125),
        ("work", "vanish", 255),
    ] {
        let output = home.run(&["run", name, "--", command]);
        assert_eq!(output.status.code(), Some(code), "{command}");
        assert!(
            text(&output.stderr).starts_with("casemate: "),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_call_that_nobody_took_is_made_anew_but_not_one_that_may_have_run() {
    for (command, code, calls) in [("late", 7, 2), ("never", 125, 3), ("deaf", 125, 1)] {
        let home = Home::new();
        let output = home.run(&["run", "work", "--", command]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command}: {said}");
        assert_eq!(home.asked().len(), calls, "{command}: {said}");
    }
}

#[test]
fn a_reader_that_has_enough_ends_the_program_silently() {
    let home = Home::new();
    let mut child = home
        .command(&["run", "work", "--", "flood"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_disposable_runs_a_program_by_a_service_that_policy_could_judge() {
    let home = Home::new();
    let output = home.run(&["run", "--disposable", "--", "ls", "-l"]);
    assert_eq!(output.status.code(), Some(7));
    let output = home.run(&["run", "--disposable=debian-12", "--", "ls"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        home.asked(),
        [":qubes.VMExec+ls+--l", "debian-12:qubes.VMExec+ls"]
    );
    assert_eq!(
        home.run(&["run", "--disposable", "work", "--", "ls"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(home.run(&["run", "--", "ls"]).status.code(), Some(2));
}

#[test]
fn a_document_is_sent_whole_under_a_safe_name() {
    let home = Home::new();
    let path = home.dir.path().join("Übersicht.pdf");
    fs::write(&path, vec![7; 300_000]).unwrap();
    let output = home.run(&["open", "--disposable", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(home.asked(), [":qubes.OpenInVM+view-only"]);
    let received = fs::read(home.dir.path().join("received")).unwrap();
    let name = b"_bersicht.pdf\0";
    assert_eq!(&received[32..32 + name.len()], name);
    assert_eq!(received.len(), 32 + name.len() + 300_000 + 32);

    for (words, code) in [
        (&["--disposable", "/no/such.pdf"][..], 3),
        (&["--disposable", "/tmp"], 2),
        (&["work"], 2),
        (&["work", "a", "b"], 2),
    ] {
        let line: Vec<&str> = std::iter::once("open")
            .chain(words.iter().copied())
            .collect();
        assert_eq!(home.run(&line).status.code(), Some(code), "{words:?}");
    }
    assert_eq!(
        home.asked().len(),
        1,
        "nothing was started for a file that is not there"
    );
}

#[test]
fn builds_and_logs_are_shown() {
    let home = Home::new();
    let output = home.run(&["template", "build", "debian-12"]);
    assert_eq!(text(&output.stdout), "debian-12 revision 3\n");
    assert!(text(&output.stderr).contains("packing"));
    let output = home.run(&["template", "build", "bad"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no recipe"));
    assert_eq!(text(&home.run(&["logs", "work"]).stdout), "booting\n");
}

#[test]
fn status_starts_nothing_and_a_supervisor_that_cannot_start_says_why() {
    let home = Home::without_supervisor();
    let output = home.run(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (status["version"].as_u64(), status["supervisor"].as_bool()),
        (Some(1), Some(false))
    );

    // A copy of the program, so that the casemated beside it is ours.
    let programs = home.dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_casemate"), programs.join("casemate")).unwrap();
    let daemon = programs.join("casemated");
    fs::write(
        &daemon,
        "#!/bin/sh\necho 'this machine is too small' >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(programs.join("casemate"))
        .arg("ls")
        .env("XDG_RUNTIME_DIR", home.dir.path())
        .env("XDG_STATE_HOME", home.dir.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("this machine is too small"),
        "{}",
        text(&output.stderr)
    );
}
