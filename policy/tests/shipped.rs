//! What the shipped rules let a VM do: each service from and to VMs of every kind.

use casemate_policy::{Decision, Denial, Facts, Files, Policy, PolicyFile, Request, Verdict};

const RULES: &str = include_str!("../rules/90-default.policy");

struct Shipped;

impl Files for Shipped {
    fn text(&self, _: usize, _: &str) -> Result<String, String> {
        Ok(RULES.to_owned())
    }

    fn names(&self, _: usize, _: &str) -> Result<Vec<String>, String> {
        Err("there are no directories".to_owned())
    }

    fn display(&self, _: usize, path: &str) -> String {
        path.to_owned()
    }
}

/// As `casemated` says them: every template is one of disposables, the host is there, nobody has tags.
const FACTS: &str = r#"{"domains":{
"dom0":{"type":"AdminVM","power_state":"Running","uuid":"00000000-0000-0000-0000-000000000000"},
"work":{"type":"AppVM","power_state":"Running","default_dispvm":"deb"},
"vault":{"type":"AppVM","power_state":"Halted","default_dispvm":"deb"},
"deb":{"type":"TemplateVM","power_state":"Halted","default_dispvm":"deb","template_for_dispvms":true},
"disp1":{"type":"DispVM","power_state":"Running","default_dispvm":"deb"}
}}"#;

fn facts() -> Facts {
    serde_json::from_str(FACTS).expect("facts")
}

fn policy() -> Policy {
    let top = PolicyFile {
        directory: 0,
        name: "90-default.policy".to_owned(),
    };
    Policy::read(&[top], &Shipped).expect("the shipped rules are valid")
}

fn words(decision: &Decision) -> String {
    let text = match &decision.verdict {
        Verdict::Deny(Denial::Rule) if decision.notify => "deny".to_owned(),
        Verdict::Deny(Denial::Rule) => "deny quietly".to_owned(),
        Verdict::Deny(denial) => denial.word().to_owned(),
        Verdict::Allow { target, user, .. } => {
            assert_eq!(*user, None, "no shipped rule names an account");
            format!("allow {target}")
        }
        Verdict::Ask {
            targets, default, ..
        } => {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            let first = match default {
                Some(default) => format!(" first {default}"),
                None => String::new(),
            };
            format!("ask {}{first}", targets.join(" "))
        }
    };
    assert!(
        decision.notify || !matches!(decision.verdict, Verdict::Deny(_)) || text == "deny quietly"
    );
    text
}

/// Service, caller, what it asks for, the answer.
const TABLE: &[(&str, &str, &str, &str)] = &[
    (
        "qubes.Filecopy",
        "work",
        "",
        "ask @dispvm:deb deb disp1 vault",
    ),
    (
        "qubes.Filecopy",
        "work",
        "vault",
        "ask @dispvm:deb deb disp1 vault",
    ),
    (
        "qubes.Filecopy",
        "work",
        "gone",
        "ask @dispvm:deb deb disp1 vault",
    ),
    (
        "qubes.Filecopy",
        "disp1",
        "@dispvm",
        "ask @dispvm:deb deb vault work",
    ),
    ("qubes.Filecopy", "work", "dom0", "deny"),
    ("qubes.Filecopy", "work", "@adminvm", "deny"),
    ("qubes.OpenInVM", "work", "@dispvm", "allow @dispvm:deb"),
    ("qubes.OpenInVM", "disp1", "@dispvm", "allow @dispvm:deb"),
    (
        "qubes.OpenInVM",
        "work",
        "@dispvm:deb",
        "ask @dispvm:deb deb disp1 vault",
    ),
    (
        "qubes.OpenInVM",
        "work",
        "vault",
        "ask @dispvm:deb deb disp1 vault",
    ),
    (
        "qubes.OpenInVM",
        "work",
        "",
        "ask @dispvm:deb deb disp1 vault",
    ),
    ("qubes.OpenInVM", "work", "dom0", "deny"),
    (
        "qubes.OpenURL",
        "vault",
        "@dispvm",
        "ask @dispvm:deb deb disp1 work first @dispvm:deb",
    ),
    (
        "qubes.OpenURL",
        "work",
        "vault",
        "ask @dispvm:deb deb disp1 vault first @dispvm:deb",
    ),
    ("qubes.OpenURL", "work", "dom0", "deny"),
    ("qubes.PdfConvert", "work", "@dispvm", "allow @dispvm:deb"),
    ("qubes.PdfConvert", "work", "vault", "deny"),
    ("qubes.PdfConvert", "work", "", "deny"),
    ("qubes.PdfConvert", "work", "dom0", "deny"),
    ("qubes.StartApp", "work", "@dispvm", "ask @dispvm:deb"),
    ("qubes.StartApp", "work", "vault", "deny"),
    ("qubes.VMExec", "work", "@dispvm", "ask @dispvm:deb"),
    ("qubes.VMExec", "work", "disp1", "deny"),
    ("qubes.VMExecGUI", "work", "@dispvm", "ask @dispvm:deb"),
    ("qubes.VMExecGUI", "work", "vault", "deny"),
    ("qubes.VMShell", "work", "@dispvm", "ask @dispvm:deb"),
    ("qubes.VMShell", "work", "vault", "deny"),
    ("qubes.VMShell", "work", "", "deny"),
    ("qubes.VMShell", "work", "dom0", "deny"),
    ("qubes.VMShell", "disp1", "work", "deny"),
    ("qubes.VMRootExec", "work", "@dispvm", "deny"),
    ("qubes.VMRootShell", "work", "@dispvm", "deny"),
    ("qubes.VMRootShell", "work", "vault", "deny"),
    ("qubes.VMRootShell", "work", "dom0", "deny"),
    ("qubes.Gpg", "work", "vault", "ask vault"),
    ("qubes.Gpg", "work", "", "ask vault"),
    ("qubes.Gpg", "disp1", "", "ask vault work"),
    ("qubes.Gpg", "work", "@dispvm", "deny"),
    ("qubes.Gpg", "work", "deb", "deny"),
    ("qubes.Gpg", "work", "dom0", "deny"),
    ("qubes.SshAgent", "work", "vault", "ask vault"),
    ("qubes.SshAgent", "work", "", "ask vault"),
    ("qubes.SshAgent", "work", "@dispvm", "deny"),
    ("qubes.SshAgent", "work", "dom0", "deny"),
    ("qubes.ConnectTCP", "work", "vault", "deny"),
    ("qubes.ConnectTCP", "work", "", "deny"),
    ("qubes.ConnectTCP", "work", "dom0", "deny"),
    ("qubes.UpdatesProxy", "deb", "", "deny quietly"),
    ("qubes.UpdatesProxy", "work", "vault", "deny quietly"),
    ("qubes.UpdatesProxy", "work", "dom0", "deny"),
    ("qubes.NotifyUpdates", "work", "dom0", "allow dom0"),
    ("qubes.NotifyUpdates", "work", "vault", "deny"),
    ("qubes.GetAppmenus", "work", "vault", "deny"),
    ("qubes.GetImageRGBA", "work", "@dispvm", "deny"),
    ("qubes.GetDate", "work", "vault", "deny"),
    ("qubes.GetDate", "work", "dom0", "deny"),
    ("qubes.SetDateTime", "work", "vault", "deny"),
    ("qubes.ResizeDisk", "work", "vault", "deny"),
    ("casemate.Identity", "work", "vault", "deny"),
    ("qubes.WaitForSession", "work", "vault", "deny"),
    ("some.Service", "work", "vault", "deny"),
    ("some.Service", "work", "@dispvm", "deny"),
    ("some.Service", "work", "", "deny"),
    ("some.Service", "gone", "vault", "deny"),
    ("some.Service", "work", "dom0", "deny"),
    // What nobody may ask for, whatever rules say.
    ("qubes.Filecopy", "work", "@anyvm", "invalid-target-token"),
    (
        "qubes.OpenInVM",
        "work",
        "@dispvm:vault",
        "not-a-dispvm-template",
    ),
];

#[test]
fn each_service_is_judged_as_its_comment_says() {
    let (policy, facts) = (policy(), facts());
    for (service, source, target, expected) in TABLE {
        // No shipped rule is about an argument.
        for argument in ["+", "+x"] {
            let request = Request {
                source,
                target,
                service,
                argument,
            };
            let decision = policy.decide(&request, &facts);
            assert_eq!(
                words(&decision),
                *expected,
                "{service}{argument} {source} -> {target}"
            );
            // A refusal names a line that denies.
            if let Verdict::Deny(Denial::Rule) = decision.verdict {
                let line = decision.rule.expect("a rule").line as usize;
                let rule = RULES.lines().nth(line - 1).expect("the line");
                assert!(rule.contains(" deny"), "{rule}");
            }
        }
    }
}

#[test]
fn every_rule_is_in_the_table_and_has_a_comment() {
    let services: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
    let mut commented = false;
    for line in RULES.lines() {
        match line.split_whitespace().next() {
            None => commented = false,
            Some(word) if word.starts_with('#') => commented = true,
            Some(service) => {
                assert!(commented, "no comment above: {line}");
                assert!(
                    service == "*" || services.contains(&service),
                    "not in the table: {line}"
                );
            }
        }
    }
}

#[test]
fn nothing_in_them_is_probably_not_meant() {
    let findings: Vec<String> = policy()
        .lint(Some(&facts()))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(findings, [] as [String; 0]);
}

#[test]
fn no_vm_reaches_the_host() {
    for way in policy().reach(&facts()) {
        let tells = way.service == "qubes.NotifyUpdates";
        assert!(way.target.to_string() != "dom0" || tells, "{way:?}");
    }
}
