//! `casemate audit` reads the log on disk, with the files that were put aside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "there is no supervisor here")]
mod fixture;

use std::{fs, io::Write, path::PathBuf, process::Command};

use fixture::{Home, text};

fn line(time: u64, source: &str, service: &str, result: &str) -> String {
    let decision = serde_json::json!({
        "time": time, "source": source, "requested": "vault", "target": "", "service": service, "result": result,
        "rule": "x.policy:1", "reason": "\u{1b}[31mwhy",
    });
    format!("{decision}\n")
}

fn home() -> (Home, PathBuf) {
    let home = Home::without_supervisor();
    let state = home.dir.path().join("state/casemate");
    fs::create_dir_all(&state).unwrap();
    (home, state)
}

fn times(home: &Home, words: &[&str]) -> Vec<u64> {
    let line: Vec<&str> = ["audit", "--json"]
        .into_iter()
        .chain(words.iter().copied())
        .collect();
    let output = home.run(&line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    list.iter()
        .map(|decision| decision["time"].as_u64().unwrap())
        .collect()
}

#[test]
fn filters_go_over_all_files_and_the_last_ones_are_shown() {
    let (home, state) = home();
    assert_eq!(times(&home, &[]), [] as [u64; 0], "there is no log yet");
    for (name, first) in [
        ("audit.jsonl.4", 100),
        ("audit.jsonl.1", 200),
        ("audit.jsonl", 300),
    ] {
        let text: String = [
            line(first, "work", "qubes.Filecopy+", "deny"),
            line(first + 1, "bank", "qubes.Filecopy+x", "granted"),
            line(first + 2, "work", "qubes.Gpg+", "killed"),
        ]
        .concat();
        fs::write(state.join(name), text).unwrap();
    }
    for (words, expected) in [
        (&["-n", "2"][..], &[301, 302][..]),
        (&["-n", "0"], &[]),
        (&["--vm", "bank"], &[101, 201, 301]),
        (
            &["--service", "qubes.Filecopy", "-n", "3"],
            &[201, 300, 301],
        ),
        (&["--result", "killed", "--all"], &[102, 202, 302]),
        (&["--vm", "work", "--result", "deny", "-n", "1"], &[300]),
        (&["--since", "1d"], &[]),
        (&["--until", "1d", "--vm", "bank"], &[101, 201, 301]),
    ] {
        assert_eq!(times(&home, words), expected, "{words:?}");
    }
    let output = home.run(&["audit", "--all"]);
    let table = text(&output.stdout);
    assert_eq!(table.lines().count(), 10);
    assert!(
        table.contains("_[31mwhy") && !table.contains('\u{1b}'),
        "{table}"
    );
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(
        elsewhere.path().join("audit.jsonl"),
        line(7, "work", "s+", "deny"),
    )
    .unwrap();
    assert_eq!(
        times(&home, &["--log", elsewhere.path().to_str().unwrap()]),
        [7]
    );
    assert_eq!(
        home.run(&["audit", "--all", "-n", "3"]).status.code(),
        Some(2)
    );
}

/// 30 MiB of decisions, read by a program that may have no more than 16 MiB of data.
#[test]
fn a_long_log_is_not_held_in_memory() {
    let (home, state) = home();
    let mut file = fs::File::create(state.join("audit.jsonl.1")).unwrap();
    let service = format!("qubes.Filecopy+{}", "x".repeat(200));
    let block: String = (0..1000)
        .map(|time| line(time, "work", &service, "allow"))
        .collect();
    for _ in 0..90 {
        file.write_all(block.as_bytes()).unwrap();
    }
    for (words, lines) in [
        ("audit --json --all", 90_002),
        ("audit --all", 90_001),
        ("audit --json -n 10", 12),
    ] {
        let script = format!("ulimit -d 16384 && \"$0\" {words} | wc -l");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_casemate")])
            .env("XDG_STATE_HOME", home.dir.path().join("state"))
            .output()
            .unwrap();
        assert_eq!(text(&output.stderr), "", "{words}");
        assert_eq!(text(&output.stdout).trim(), lines.to_string(), "{words}");
    }
}
