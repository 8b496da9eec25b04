//! The rules of Qubes 4.0, read by `!compat-4.0`.

use casemate_policy::{Files, Policy, PolicyFile, Problem, Reading};

/// One policy file, and the old directory.
struct Old(&'static str, Vec<(&'static str, &'static str)>);

const DIRECTORY: &str = "/etc/qubes-rpc/policy";

impl Files for Old {
    fn text(&self, _: usize, path: &str) -> Result<String, String> {
        if path == "10-a.policy" {
            return Ok(self.0.to_owned());
        }
        let mut files = self.1.iter();
        files
            .find(|(name, _)| path == format!("{DIRECTORY}/{name}"))
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| format!("there is no {path}"))
    }

    fn names(&self, _: usize, path: &str) -> Result<Vec<String>, String> {
        match path {
            DIRECTORY => Ok(self.1.iter().map(|(name, _)| (*name).to_owned()).collect()),
            _ => Err(format!("there is no {path}")),
        }
    }

    fn display(&self, _: usize, path: &str) -> String {
        path.rsplit('/').next().unwrap_or(path).to_owned()
    }
}

fn read(text: &'static str, old: Vec<(&'static str, &'static str)>) -> Reading {
    let top = PolicyFile {
        directory: 0,
        name: "10-a.policy".to_owned(),
    };
    Reading::new(&[top], &Old(text, old))
}

fn lines(policy: &Policy) -> Vec<String> {
    let line = |rule: &casemate_policy::Rule| format!("{}: {rule}", rule.place);
    policy.rules().iter().map(line).collect()
}

#[test]
fn old_files_are_read_by_service_and_those_with_an_argument_first() {
    let reading = read(
        "x * a b deny\n!compat-4.0\nz * a b deny",
        vec![
            ("svc", "$anyvm $dispvm ask,user=root"),
            ("other.Svc", "# a comment\na b allow"),
            ("svc+arg", "a $tag:t allow"),
            ("svc+arg.rpmsave", "oops"),
            (".hidden", "oops"),
            ("odd name", "oops"),
            ("svc.swp", "oops"),
        ],
    );
    assert_eq!(reading.errors, []);
    assert_eq!(
        lines(&reading.rules),
        [
            "10-a.policy:1: x * a b deny",
            "other.Svc:2: other.Svc * a b allow",
            "svc+arg:1: svc +arg a @tag:t allow",
            "svc+arg:0: svc +arg @anyvm @anyvm deny",
            "svc+arg:0: svc +arg @anyvm dom0 deny",
            "svc:1: svc * @anyvm @dispvm ask user=root",
            "10-a.policy:3: z * a b deny",
        ]
    );
}

#[test]
fn every_error_is_told_and_the_rest_is_read() {
    let reading = read(
        "s * a b oops\n!compat-4.0\n!compat-4.0 x\n!what\ns * a c allow",
        vec![("svc", "!compat-4.0\na b")],
    );
    let errors: Vec<String> = reading.errors.iter().map(ToString::to_string).collect();
    let starts = [
        "10-a.policy:1:9: 'oops'",
        "svc:1: '!compat-4.0'",
        "svc:2: a rule behind",
        "10-a.policy:3:1: ",
        "10-a.policy:4:1: '!what'",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(
            error.starts_with(start),
            "{error} does not start with {start}"
        );
    }
    assert_eq!(lines(&reading.rules), ["10-a.policy:5: s * a c allow"]);
}

#[test]
fn files_that_include_each_other_twice_end_soon() {
    let reading = read("!include 10-a.policy\n!include 10-a.policy", vec![]);
    assert!(
        reading
            .errors
            .iter()
            .any(|error| error.problem == Problem::TooMany)
    );
    assert!(reading.errors.len() < 5000, "{}", reading.errors.len());
}
