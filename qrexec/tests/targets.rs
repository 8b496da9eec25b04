//! What a call comes to by the target that it names, as `fixtures/targets.txt` has it: a decision for each target by each
//! of the policies there, with VMs that were deleted, renamed or made again meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use casemate_policy::{Decision, Facts, Files, Policy, PolicyFile, Request, Verdict};
use casemate_qrexec_wire::Target;
use serde_json::{Value, json};

const TABLE: &str = include_str!("fixtures/targets.txt");

/// One file under every path.
struct One<'a>(&'a str);

impl Files for One<'_> {
    fn text(&self, _: usize, _: &str) -> Result<String, String> {
        Ok(self.0.to_owned())
    }

    fn names(&self, _: usize, _: &str) -> Result<Vec<String>, String> {
        Err("there are no directories".to_owned())
    }

    fn display(&self, _: usize, path: &str) -> String {
        path.to_owned()
    }
}

/// The policies of the table's head, in the order of its columns: `#   NAME  RULE; RULE`.
fn policies() -> Vec<(&'static str, Policy)> {
    let lines = TABLE.lines().filter_map(|line| line.strip_prefix("#   "));
    let top = PolicyFile {
        directory: 0,
        name: "p".to_owned(),
    };
    let read = |line: &'static str| {
        let (name, rules) = line.split_once(' ').unwrap();
        let text = rules.trim().replace("; ", "\n");
        let policy = Policy::read(std::slice::from_ref(&top), &One(&text)).unwrap();
        (name, policy)
    };
    lines.map(read).collect()
}

/// The UUID whose digits are this one.
fn uuid(digit: u8) -> String {
    let digits = |count| digit.to_string().repeat(count);
    format!("{}-0000-4000-8000-{}", digits(8), digits(12))
}

fn houses() -> BTreeMap<&'static str, Facts> {
    let vm = |number, kind, more: Value| {
        let mut vm = json!({"type": kind, "power_state": "Running", "uuid": uuid(number)});
        vm.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        vm
    };
    let dvm = json!({"default_dispvm": "dvm"});
    let house = BTreeMap::from([
        ("work", vm(1, "AppVM", dvm.clone())),
        ("vault", vm(2, "AppVM", dvm.clone())),
        (
            "bank",
            vm(
                3,
                "AppVM",
                json!({"default_dispvm": "dvm", "power_state": "Halted"}),
            ),
        ),
        ("hidden", vm(4, "AppVM", json!({"internal": true}))),
        ("bare", vm(5, "StandaloneVM", json!({}))),
        ("tpl", vm(6, "TemplateVM", json!({"power_state": "Halted"}))),
        (
            "dvm",
            vm(
                7,
                "AppVM",
                json!({"template_for_dispvms": true, "power_state": "Halted"}),
            ),
        ),
        ("disp7", vm(8, "DispVM", dvm.clone())),
    ]);
    let without = |name| {
        let mut house = house.clone();
        let vm = house.remove(name).unwrap();
        (house, vm)
    };
    let (deleted, vault) = without("vault");
    let (mut renamed, mut replaced) = (deleted.clone(), deleted.clone());
    renamed.insert("safe", vault);
    replaced.insert("vault", vm(9, "AppVM", dvm));
    let (nodisp, _) = without("dvm");
    let facts = |house| serde_json::from_value(json!({ "domains": house })).unwrap();
    BTreeMap::from([
        ("house", facts(house)),
        ("deleted", facts(deleted)),
        ("renamed", facts(renamed)),
        ("replaced", facts(replaced)),
        ("nodisp", facts(nodisp)),
    ])
}

fn words(decision: &Decision) -> String {
    let (mut text, told) = match &decision.verdict {
        Verdict::Deny(denial) => (format!("deny {}", denial.word()), true),
        Verdict::Allow { target, .. } => (format!("allow {target}"), false),
        Verdict::Ask {
            targets, default, ..
        } => {
            let first = match default {
                Some(default) => format!(" first {default}"),
                None => String::new(),
            };
            (format!("ask {}{first}", targets.len()), false)
        }
    };
    if decision.notify != told {
        text += if decision.notify { " told" } else { " quiet" };
    }
    text
}

#[test]
fn every_target_leads_where_the_table_says_by_every_policy() {
    let (policies, houses) = (policies(), houses());
    let lines = TABLE.lines();
    let mut cases = 0;
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // A target may hold any character, but none of the table unescaped.
        let mut cells = line.split(" | ");
        let mut call = cells.next().unwrap().splitn(3, ' ');
        let mut word = || call.next().unwrap();
        let (house, source, raw) = (&houses[word()], word(), word());
        let raw: String = serde_json::from_str(raw).unwrap();
        // As the broker makes it of what comes from a VM.
        let target = Target::sanitise(raw.as_bytes());
        for (name, policy) in &policies {
            let request = Request {
                source,
                target: target.as_str(),
                service: "s",
                argument: "+",
            };
            let decision = policy.decide(&request, house);
            let expected = cells.next().unwrap();
            assert_eq!(words(&decision), expected, "{name}: {line}");
            cases += 1;
        }
        assert_eq!(cells.next(), None, "{line}");
    }
    assert_eq!((policies.len(), cases), (9, 1251));
}

/// What the broker hands to policy is of few characters, so nothing in the table depends on how a name is written.
#[test]
fn no_target_leaves_the_alphabet() {
    for byte in 0..=u8::MAX {
        let target = Target::sanitise(&[b'v', byte, b't']);
        let kept = byte.is_ascii_alphanumeric() || b"._+@:-".contains(&byte);
        let expected = if kept { char::from(byte) } else { '_' };
        assert_eq!(target.as_str(), format!("v{expected}t"));
    }
}
