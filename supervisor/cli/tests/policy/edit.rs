//! `casemate policy edit` with editors that are shell commands. The copies are in the house's directory, so nothing may
//! be left of them there.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Output,
};

use serde_json::{Value, json};

use crate::{House, RULES, out};

impl House {
    /// Runs the verb with an editor that does one command after the other, each time it is started.
    fn edit(&self, arguments: &[&str], input: &str, rounds: &[&str]) -> Output {
        for (number, round) in rounds.iter().enumerate() {
            fs::write(self.path().join(format!("round{number}")), round).expect("as set up");
        }
        fs::write(self.path().join("count"), "0").expect("as set up");
        let editor = "n=$(cat count); echo $((n + 1)) > count; . ./round$n; true";
        fs::write(self.path().join("editor"), editor).expect("as set up");
        let verb: Vec<&str> = [&["edit"], arguments].concat();
        self.policy_with(&verb, input, "sh editor")
    }

    fn rounds(&self) -> String {
        let count = fs::read_to_string(self.path().join("count")).expect("as set up");
        count.trim().to_owned()
    }

    fn rules(&self) -> String {
        fs::read_to_string(self.path().join("p/10-a.policy")).expect("as set up")
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path().join(directory)).expect("as set up");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry
                .expect("as set up")
                .file_name()
                .to_string_lossy()
                .into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    fn kept(&self) -> Vec<String> {
        let mut names = self.names(".");
        names.retain(|name| name.starts_with("casemate-policy-"));
        names
    }
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("as set up")
}

/// Makes the ask of mail an allow.
const ALLOW: &str = r#"sed -i 's/@anyvm ask default_target=@dispvm/@anyvm allow/' "$1""#;

#[test]
fn a_text_is_replaced_after_its_consequences_were_shown() {
    let house = House::new(RULES);
    let file = house.path().join("p/10-a.policy");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("as set up");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).expect("as set up");
    }
    let old = fs::metadata(&file).expect("as set up");
    let output = house.edit(&["10-a.policy"], "y\n", &[ALLOW]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(house.rules().contains("@tag:own @anyvm allow\n"));
    let text = out(&output);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "warning: p/10-a.policy:4:30: 'target=bank' goes past the deny at p/10-a.policy:2: a redirect is not judged again",
            "FROM SERVICE TO BEFORE AFTER",
            "work test.Mail @default, work ask deny",
            "work test.Mail @dispvm ask allow in @dispvm:deb",
            "work test.Mail @dispvm:deb, deb ask allow",
            "work test.Mail+x @default, work ask deny",
            "work test.Mail+x @dispvm ask allow in @dispvm:deb",
            "work test.Mail+x @dispvm:deb, deb ask allow",
            "10 calls are decided otherwise",
        ]
        .map(str::to_owned)
        .to_vec(),
        "{text}"
    );
    let new = fs::metadata(&file).expect("as set up");
    assert_ne!(old.ino(), new.ino(), "written in place");
    assert_eq!(
        (old.mode(), old.uid(), old.gid()),
        (new.mode(), new.uid(), new.gid())
    );
    assert_eq!(house.names("p"), ["10-a.policy"]);
    assert_eq!(house.kept(), [] as [String; 0]);
}

#[test]
fn scripts_get_every_change_as_an_object() {
    let house = House::new(RULES);
    // What the editor prints must not get between the data.
    let noisy = format!("echo noise; {ALLOW}");
    let output = house.edit(&["--json", "--yes"], "", &[&noisy]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(report["files"], json!(["p/10-a.policy"]));
    assert_eq!(
        (&report["errors"], &report["replaced"]),
        (&json!([]), &json!(true))
    );
    let changes = report["changes"].as_array().expect("an array");
    let change = changes
        .iter()
        .find(|change| change["target"] == "deb" && change["argument"] == "")
        .expect("mail to deb");
    assert_eq!(
        (&change["source"], &change["service"]),
        (&json!("work"), &json!("test.Mail"))
    );
    assert_eq!(change["old"]["result"], "ask");
    assert_eq!(change["old"]["targets"], json!(["@dispvm:deb", "deb"]));
    assert_eq!(change["new"]["result"], "allow");
    assert_eq!(change["new"]["target"], "deb");
    assert_eq!(
        change["new"]["rule"],
        json!({"file": "p/10-a.policy", "line": 3})
    );
}

#[test]
fn nothing_is_replaced_without_a_yes() {
    for (input, rounds) in [
        ("n\n", "1"),
        ("", "1"),
        ("what\n\nno\n", "1"),
        ("e\nn\n", "2"),
    ] {
        let house = House::new(RULES);
        let output = house.edit(&["10-a.policy"], input, &[ALLOW, "true"]);
        assert_eq!(output.status.code(), Some(6), "{input:?}: {}", err(&output));
        assert_eq!(house.rules(), RULES);
        assert_eq!(house.rounds(), rounds, "{input:?}");
        assert_eq!(house.kept(), [] as [String; 0]);
    }
    let house = House::new(RULES);
    let output = house.edit(&[], "y\n", &["true"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(err(&output).contains("nothing was changed"));
}

#[test]
fn an_error_is_shown_and_can_be_mended() {
    let broken = r#"printf 'test.Mail * work bank oops\n' > "$1""#;
    let mended = r#"printf 'test.Mail * work bank allow\n' > "$1""#;
    let house = House::new(RULES);
    // The first yes is no answer to a text with an error.
    let output = house.edit(&["10-a.policy"], "y\ne\ny\n", &[broken, mended]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(house.rounds(), "2");
    assert_eq!(house.rules(), "test.Mail * work bank allow\n");
    assert!(
        out(&output).starts_with("error: p/10-a.policy:1:23: 'oops' is no action"),
        "{}",
        out(&output)
    );

    let house = House::new(RULES);
    let output = house.edit(&["--yes", "--json"], "", &[broken]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(house.rules(), RULES);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["replaced"], false);
    assert_eq!(report["errors"].as_array().map(Vec::len), Some(1));

    // What was wrong before in another file does not keep this one from being mended.
    let house = House::new("oops\n");
    fs::write(house.path().join("p/20-b.policy"), "also wrong\n").expect("as set up");
    let output = house.edit(&["10-a.policy", "--yes"], "", &[mended]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("error elsewhere, older: p/20-b.policy:1:6: "));
    assert!(out(&output).contains("deny    allow"), "{}", out(&output));
}

#[test]
fn what_was_probably_not_meant_is_said() {
    let house = House::new(RULES);
    let typo = r#"sed -i 's/work bank deny/work bnak deny/' "$1""#;
    let output = house.edit(&["--yes"], "", &[typo]);
    assert_eq!(output.status.code(), Some(0));
    let text = out(&output);
    assert!(
        text.contains(
            "warning: p/10-a.policy:2:18: there is no VM 'bnak'; 'bank' was perhaps meant"
        ),
        "{text}"
    );
    assert!(text.contains("test.Mail"), "{text}");
}

#[test]
fn a_file_that_somebody_else_changed_is_left_and_the_text_is_kept() {
    for other in [
        "echo 'test.Other * work bank allow' > p/10-a.policy",
        "rm p/10-a.policy",
        "mv p/10-a.policy moved; ln -s ../moved p/10-a.policy",
    ] {
        let house = House::new(RULES);
        let output = house.edit(
            &["10-a.policy", "--yes"],
            "",
            &[&format!("{ALLOW}; {other}")],
        );
        assert_eq!(output.status.code(), Some(1), "{other}");
        let error = err(&output);
        assert!(
            error.contains("changed by somebody else meanwhile"),
            "{error}"
        );
        let kept = house.kept();
        assert_eq!(kept.len(), 1);
        assert!(error.contains(&kept[0]), "{error}");
        let text = fs::read_to_string(house.path().join(&kept[0]).join("10-a.policy"));
        assert!(text.expect("the copy").contains("@anyvm allow"));
        let left = fs::read_to_string(house.path().join("p/10-a.policy")).unwrap_or_default();
        assert!(!left.contains("@anyvm allow"), "{left}");
    }
}

#[test]
fn several_files_are_replaced_together_or_not_at_all() {
    let house = House::new(RULES);
    let other = house.path().join("p/20-b.policy");
    fs::write(&other, "test.Other * work bank deny\n").expect("as set up");
    let both = r#"for file in "$@"; do sed -i 's/bank deny/bank allow/' "$file"; done"#;
    let meddled = format!("{both}; echo >> p/20-b.policy");
    let output = house.edit(&["--yes"], "", &[&meddled]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(house.rules(), RULES, "the first file was replaced alone");
    let output = house.edit(&["--yes"], "", &[both]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(house.rules().contains("work bank allow"));
    assert!(
        fs::read_to_string(&other)
            .expect("the file")
            .starts_with("test.Other * work bank allow")
    );
    assert_eq!(house.names("p"), ["10-a.policy", "20-b.policy"]);
}

#[test]
fn a_new_file_is_made_and_one_of_a_weaker_directory_is_taken_over() {
    let house = House::new(RULES);
    let write = r#"printf 'test.New * work bank allow\n' >> "$1""#;
    let output = house.edit(&["30-own.policy", "--yes"], "", &[write]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = fs::read_to_string(house.path().join("p/30-own.policy")).expect("a new file");
    assert!(text.starts_with("# service") && text.ends_with("test.New * work bank allow\n"));
    assert!(out(&output).contains("test.New"), "{}", out(&output));

    fs::create_dir(house.path().join("weaker")).expect("as set up");
    fs::write(
        house.path().join("weaker/90-x.policy"),
        "x.X * work bank ask\n",
    )
    .expect("as set up");
    let change = r#"sed -i 's/ask/allow/' "$1""#;
    let arguments = ["90-x.policy", "--yes", "--policy-dir", "weaker"];
    let output = house.edit(&arguments, "", &[change]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        fs::read_to_string(house.path().join("p/90-x.policy")).expect("a new file"),
        "x.X * work bank allow\n"
    );

    for (name, code) in [
        ("Own.policy", 2),
        ("own", 2),
        ("../p/x.policy", 2),
        ("/x.policy", 2),
        ("", 2),
    ] {
        let output = house.edit(&[name, "--yes"], "", &[write]);
        assert_eq!(output.status.code(), Some(code), "{name}");
        assert_eq!(house.rounds(), "0", "the editor was started for {name}");
    }
}

#[test]
fn an_included_file_and_a_link_are_edited_where_they_are() {
    let house = House::new("!include inc/x\n");
    fs::create_dir(house.path().join("p/inc")).expect("as set up");
    fs::write(house.path().join("real"), "x.X * work bank deny\n").expect("as set up");
    std::os::unix::fs::symlink("../../real", house.path().join("p/inc/x")).expect("as set up");
    let output = house.edit(&["inc/x", "--yes"], "", &[r#"sed -i 's/deny/allow/' "$1""#]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(
        out(&output).contains("work  x.X      bank  deny    allow"),
        "{}",
        out(&output)
    );
    let link = fs::symlink_metadata(house.path().join("p/inc/x")).expect("the link");
    assert!(link.is_symlink());
    assert_eq!(
        fs::read_to_string(house.path().join("real")).expect("the file"),
        "x.X * work bank allow\n"
    );
}

#[test]
fn an_editor_that_fails_changes_nothing() {
    let house = House::new(RULES);
    let output = house.policy_with(&["edit", "--yes"], "", "sh -c 'echo >> \"$1\"; exit 3' x");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("exit status: 3"), "{}", err(&output));
    assert_eq!(house.rules(), RULES);
    let output = house.policy_with(&["edit"], "", "no-such-editor");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("$VISUAL and $EDITOR"),
        "{}",
        err(&output)
    );
}
