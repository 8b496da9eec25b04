//! The recorded answers of the reference, case by case; every difference is one that the crate's documentation names.

use std::collections::{BTreeMap, BTreeSet};

use casemate_policy::{
    Action, Destination, Domain, Facts, Files, Policy, PolicyFile, Request, Rule, Verdict, select,
};
use serde_json::{Value, json};

const CORPUS: &str = include_str!("fixtures/corpus.json");

/// Directories of files: path to text.
struct Tree(Vec<(String, BTreeMap<String, String>)>);

impl Files for Tree {
    fn text(&self, directory: usize, path: &str) -> Result<String, String> {
        let found = self.0.get(directory).and_then(|(_, files)| files.get(path));
        found
            .cloned()
            .ok_or_else(|| format!("there is no file '{path}'"))
    }

    fn names(&self, directory: usize, path: &str) -> Result<Vec<String>, String> {
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let (_, files) = self.0.get(directory).ok_or("there is no such directory")?;
        let inside = files.keys().filter_map(|file| file.strip_prefix(&prefix));
        Ok(inside
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect())
    }

    fn display(&self, directory: usize, path: &str) -> String {
        match self.0.get(directory) {
            Some((name, _)) if !name.is_empty() => format!("{name}/{path}"),
            _ => path.to_owned(),
        }
    }
}

fn texts(files: &Value) -> BTreeMap<String, String> {
    let files = files.as_object().expect("an object of files");
    let text = |value: &Value| value.as_str().expect("the text of a file").to_owned();
    files
        .iter()
        .map(|(path, value)| (path.clone(), text(value)))
        .collect()
}

/// A policy whose first file is `__main__`.
fn main_policy(files: &Value) -> Result<Policy, String> {
    let main = PolicyFile {
        directory: 0,
        name: "__main__".to_owned(),
    };
    let tree = Tree(vec![(String::new(), texts(files))]);
    Policy::read(&[main], &tree).map_err(|error| error.to_string())
}

fn facts(system: &Value) -> Facts {
    serde_json::from_value(system.clone()).expect("facts")
}

/// A recorded place in our words: by name, whatever it was called there.
fn place(text: &str, facts: &Facts) -> String {
    let (prefix, vm) = match text.strip_prefix("@dispvm:") {
        Some(vm) => ("@dispvm:", vm),
        None => ("", text),
    };
    let by_uuid = |uuid: &str| {
        let has = |domain: &Domain| domain.uuid.as_deref() == Some(uuid);
        facts
            .domains
            .iter()
            .find_map(|(name, domain)| has(domain).then(|| name.clone()))
    };
    let name = vm
        .strip_prefix("uuid:")
        .and_then(by_uuid)
        .unwrap_or_else(|| vm.to_owned());
    let name = if name == "@adminvm" {
        "dom0".to_owned()
    } else {
        name
    };
    format!("{prefix}{name}")
}

/// What we say, in the words of the corpus.
fn ours(policy: &Policy, request: &Value, facts: &Facts) -> String {
    let text = |key: &str| request[key].as_str().expect("a text");
    let decision = policy.decide(
        &Request {
            source: text("source"),
            target: text("target"),
            service: text("service"),
            argument: text("argument"),
        },
        facts,
    );
    let rule = decision.rule.map_or(0, |place| place.line);
    let notify = decision.notify;
    match decision.verdict {
        Verdict::Deny(denial) => format!("deny {} rule {rule} notify {notify}", denial.word()),
        Verdict::Allow {
            target,
            user,
            autostart,
        } => {
            format!("allow {target} {user:?} autostart {autostart} rule {rule} notify {notify}")
        }
        Verdict::Ask {
            targets,
            default,
            user,
            autostart,
        } => {
            let targets: BTreeSet<String> = targets.iter().map(Destination::to_string).collect();
            let default = default.map(|default| default.to_string());
            format!(
                "ask {targets:?} default {default:?} {user:?} autostart {autostart} rule {rule} notify {notify}"
            )
        }
    }
}

/// What the reference says.
fn theirs(expect: &Value, request: &Value, facts: &Facts) -> String {
    let rule = expect["rule"]["line"].as_u64().unwrap_or(0);
    let notify = expect["notify"] == true;
    let user = expect["user"].as_str();
    let autostart = expect["autostart"] == true;
    match expect["result"].as_str().expect("a result") {
        "deny" => format!(
            "deny {} rule {rule} notify {notify}",
            expect["reason"].as_str().unwrap_or_default()
        ),
        "allow" => {
            let target = place(expect["target"].as_str().expect("a target"), facts);
            // Only the string of its own name counted as itself there; every name of it does here.
            if target == request["source"] {
                return format!("deny loopback rule {rule} notify true");
            }
            format!("allow {target} {user:?} autostart {autostart} rule {rule} notify {notify}")
        }
        "ask" => {
            let targets = expect["targets_for_ask"].as_array().expect("targets");
            let targets: BTreeSet<String> = targets
                .iter()
                .filter_map(Value::as_str)
                .map(|target| place(target, facts))
                .collect();
            let default = expect["default_target"]
                .as_str()
                .map(|target| place(target, facts));
            format!(
                "ask {targets:?} default {default:?} {user:?} autostart {autostart} rule {rule} notify {notify}"
            )
        }
        other => other.to_owned(),
    }
}

#[test]
fn calls_are_judged_as_recorded() {
    let corpus: Value = serde_json::from_str(CORPUS).expect("the corpus is JSON");
    let mut differences = Vec::new();
    for (index, case) in corpus["evaluate"]
        .as_array()
        .expect("cases")
        .iter()
        .enumerate()
    {
        let id = case["policy"].as_str().expect("an id");
        let policy =
            main_policy(&corpus["policies"][id]["files"]).expect("a recorded policy is valid");
        let request = &case["request"];
        let facts = facts(&corpus["systems"][request["system"].as_str().expect("a system")]);
        let (ours, theirs) = (
            ours(&policy, request, &facts),
            theirs(&case["expect"], request, &facts),
        );
        // A case that we decide otherwise on purpose says how, and `because` of what.
        let expected = case["ours"].as_str().unwrap_or(&theirs);
        assert_eq!(case["because"].is_string(), expected != theirs, "{case}");
        if ours != expected {
            differences.push(format!(
                "{index} {id} {request}\n  expected: {expected}\n  ours:     {ours}"
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// A rule in the words of the corpus.
fn described(rule: &Rule) -> Value {
    let mut told = json!({
        "action": rule.action.word(),
        "argument": rule.argument,
        "at": {"file": *rule.place.file, "line": rule.place.line},
        "notify": rule.notify,
        "service": rule.service,
        "source": rule.source.to_string(),
        "target": rule.target.to_string(),
    });
    let (redirect, default_target, user, autostart) = match &rule.action {
        Action::Deny => return told,
        Action::Allow {
            redirect,
            user,
            autostart,
        } => (redirect, &None, user, autostart),
        Action::Ask {
            redirect,
            default_target,
            user,
            autostart,
        } => (redirect, default_target, user, autostart),
    };
    told["autostart"] = json!(autostart);
    for (key, wish) in [("redirect", redirect), ("default_target", default_target)] {
        if let Some(wish) = wish {
            told[key] = json!(wish.to_string());
        }
    }
    if let Some(user) = user {
        told["user"] = json!(user);
    }
    told
}

/// A recorded rule, with one name for the admin domain.
fn recorded(rule: &Value) -> Value {
    let mut rule = rule.clone();
    for key in ["source", "target", "redirect", "default_target"] {
        let is_admin = rule[key].as_str().is_some_and(|text| {
            ["@adminvm", "uuid:00000000-0000-0000-0000-000000000000"].contains(&text)
        });
        if is_admin {
            rule[key] = json!("dom0");
        } else if rule[key].is_null()
            && let Some(rule) = rule.as_object_mut()
        {
            rule.remove(key);
        }
    }
    rule
}

/// The text of which these rules were recorded, as far as it matters: each on its line.
fn rebuilt(rules: &Value) -> Value {
    let mut lines = Vec::new();
    for rule in rules.as_array().expect("rules") {
        let text = |key: &str| rule[key].as_str().unwrap_or("*");
        let mut line = format!(
            "{} {} {} {} {}",
            text("service"),
            text("argument"),
            text("source"),
            text("target"),
            text("action")
        );
        for (key, name) in [
            ("redirect", "target"),
            ("default_target", "default_target"),
            ("user", "user"),
        ] {
            if let Some(value) = rule[key].as_str() {
                line += &format!(" {name}={value}");
            }
        }
        for key in ["autostart", "notify"] {
            if let Some(value) = rule[key].as_bool() {
                line += &format!(" {key}={}", if value { "yes" } else { "no" });
            }
        }
        let number = rule["at"]["line"].as_u64().expect("a line");
        while lines.len() as u64 + 1 < number {
            lines.push(String::new());
        }
        lines.push(line);
    }
    json!({"__main__": lines.join("\n")})
}

fn check_rules(what: &str, case: &Value, policy: Result<Policy, String>) {
    let valid = case["valid"] == true;
    let policy = match policy {
        Ok(policy) if valid => policy,
        Err(_) if !valid => return,
        Ok(_) => panic!("{what} should be refused: {case}"),
        Err(error) => panic!("{what} should be accepted: {error}: {case}"),
    };
    let rules = case["rules"].as_array().expect("rules");
    assert_eq!(policy.rules().len(), rules.len(), "{case}");
    for (ours, theirs) in policy.rules().iter().zip(rules) {
        assert_eq!(described(ours), recorded(theirs), "{case}");
    }
}

#[test]
fn texts_are_accepted_and_refused_as_recorded() {
    let corpus: Value = serde_json::from_str(CORPUS).expect("the corpus is JSON");
    for case in corpus["parse"].as_array().expect("cases") {
        let files = match case["policy"].as_str() {
            Some(id) => &corpus["policies"][id]["files"],
            None => &case["files"],
        };
        if !files.is_null() {
            check_rules("this text", case, main_policy(files));
        }
    }
}

/// Of many texts only the rules were recorded: what they say must be read as them again.
#[test]
fn recorded_rules_are_read_from_their_own_words() {
    let corpus: Value = serde_json::from_str(CORPUS).expect("the corpus is JSON");
    let cases = corpus["parse"].as_array().expect("cases");
    let mut without_text = 0;
    for case in cases.iter().filter(|case| case["valid"] == true) {
        let has_text = !case["files"].is_null()
            || case["policy"]
                .as_str()
                .is_some_and(|id| !corpus["policies"][id].is_null());
        without_text += usize::from(!has_text);
        // Rules of other files and of the old format are not lines of this text.
        let own = case["rules"].as_array().expect("rules").iter();
        if own.clone().all(|rule| rule["at"]["file"] == "__main__") {
            check_rules("this text", case, main_policy(&rebuilt(&case["rules"])));
        }
    }
    assert_eq!(without_text, 55);
}

#[test]
fn directories_are_read_as_recorded() {
    let corpus: Value = serde_json::from_str(CORPUS).expect("the corpus is JSON");
    for case in corpus["directories"].as_array().expect("cases") {
        let order = case["search_order"]
            .as_array()
            .expect("an order")
            .iter()
            .filter_map(Value::as_str);
        let directories = order.map(|name| {
            let files = &case["dirs"][name];
            (
                name.to_owned(),
                if files.is_null() {
                    BTreeMap::new()
                } else {
                    texts(files)
                },
            )
        });
        let tree = Tree(directories.collect());
        let names: Vec<Vec<String>> = (0..tree.0.len())
            .map(|index| tree.names(index, "").expect("a directory"))
            .collect();
        let policy = select(&names)
            .map_err(|refused| refused.to_string())
            .and_then(|top| Policy::read(&top, &tree).map_err(|error| error.to_string()));
        check_rules("this directory", case, policy);
    }
}
