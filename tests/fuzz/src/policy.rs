//! A policy in memory, and a fixed house of VMs that ask of each other what they should not.
//!
//! An input is the text of up to three files, divided by NULs: the top one, then `include/1` and `include/2.policy`.

use std::collections::BTreeSet;

use casemate_policy::{
    Decision, Destination, Domain, Facts, Files, Policy, PolicyFile, Request, Verdict,
};

const NAMES: [&str; 3] = ["30-top.policy", "include/1", "include/2.policy"];

/// The files of an input.
#[derive(Debug)]
pub struct Tree<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Tree<'a> {
    /// Longest input. Files that include each other multiply; who writes a policy owns the machine, so that is no attack.
    const MAX: usize = 2048;

    /// Divides an input; `None` when it is no text or too long.
    pub fn new(input: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(input)
            .ok()
            .filter(|text| text.len() <= Self::MAX)?;
        Some(Self(NAMES.into_iter().zip(text.split('\0')).collect()))
    }
}

impl Files for Tree<'_> {
    fn text(&self, _directory: usize, path: &str) -> Result<String, String> {
        let found = self.0.iter().find(|(name, _)| *name == path);
        found
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| "there is no such file".to_owned())
    }

    fn names(&self, _directory: usize, path: &str) -> Result<Vec<String>, String> {
        let inside = |(name, _): &(&str, _)| {
            let rest = name.strip_prefix(path)?.strip_prefix('/')?;
            Some(rest.to_owned())
        };
        Ok(self.0.iter().filter_map(inside).collect())
    }

    fn display(&self, _directory: usize, path: &str) -> String {
        path.to_owned()
    }
}

fn facts() -> Facts {
    let domain = |kind: &str, tag: &str, dispvm: &str, running| Domain {
        kind: kind.to_owned(),
        tags: BTreeSet::from([tag.to_owned()]),
        default_dispvm: Some(dispvm.to_owned()).filter(|name| !name.is_empty()),
        template_for_dispvms: kind == "TemplateVM",
        running,
        internal: tag == "internal",
        ..Domain::default()
    };
    let domains = [
        ("work", domain("AppVM", "trusted", "debian", true)),
        ("untrusted", domain("AppVM", "net", "gone", false)),
        ("debian", domain("TemplateVM", "internal", "", false)),
        ("disp1", domain("DispVM", "trusted", "debian", true)),
    ];
    Facts {
        domains: domains
            .map(|(name, domain)| (name.to_owned(), domain))
            .into(),
    }
}

/// Reads the policy and judges some requests. The same request has the same answer, and no answer leads back to the
/// caller, to a VM that there is not, or to one that may not be started.
pub fn judge(tree: &Tree<'_>) {
    let top = PolicyFile {
        directory: 0,
        name: NAMES[0].to_owned(),
    };
    let policy = match Policy::read(&[top], tree) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let facts = facts();
    for source in ["work", "untrusted", "disp1", "dom0", "nobody"] {
        for target in [
            "",
            "work",
            "untrusted",
            "dom0",
            "@dispvm",
            "@dispvm:debian",
            "@anyvm",
        ] {
            for (service, argument) in [("qubes.Filecopy", "+"), ("a", "+b")] {
                let request = Request {
                    source,
                    target,
                    service,
                    argument,
                };
                let decision = policy.decide(&request, &facts);
                check(&decision, &request, &facts);
                assert_eq!(decision, policy.decide(&request, &facts));
            }
        }
    }
}

fn check(decision: &Decision, request: &Request<'_>, facts: &Facts) {
    let (targets, autostart) = match &decision.verdict {
        Verdict::Deny(_) => return,
        Verdict::Allow {
            target, autostart, ..
        } => (vec![target], *autostart),
        Verdict::Ask {
            targets,
            default,
            autostart,
            ..
        } => {
            assert!(!targets.is_empty() && targets.is_sorted());
            assert!(default.as_ref().is_none_or(|it| targets.contains(it)));
            (targets.iter().collect(), *autostart)
        }
    };
    assert!(decision.rule.is_some(), "allowed by no rule");
    for target in targets {
        match target {
            Destination::Admin => assert_ne!(request.source, "dom0"),
            Destination::Vm(name) => {
                assert_ne!(name, request.source);
                assert!(autostart || facts.domains[name].running);
            }
            Destination::Disposable { template } => {
                assert!(autostart && facts.domains[template].template_for_dispvms);
            }
        }
    }
}
