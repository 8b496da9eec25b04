//! What the shipped rules let a VM do.

use casemate_policy::{
    Decision, Denial, Destination, Domain, Facts, Files, Policy, PolicyFile, Request, Verdict,
};

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

fn decide(service: &str, target: &str) -> Decision {
    let top = PolicyFile {
        directory: 0,
        name: "90-default.policy".to_owned(),
    };
    let policy = Policy::read(&[top], &Shipped).expect("the shipped rules are valid");
    let domain = |template| Domain {
        kind: "AppVM".to_owned(),
        default_dispvm: Some("debian-12".to_owned()),
        template_for_dispvms: template,
        ..Domain::default()
    };
    let domains = [("work", false), ("untrusted", false), ("debian-12", true)];
    let facts = Facts {
        domains: domains
            .map(|(name, template)| (name.to_owned(), domain(template)))
            .into(),
    };
    let request = Request {
        source: "work",
        target,
        service,
        argument: "+",
    };
    policy.decide(&request, &facts)
}

#[test]
fn files_go_where_the_person_says() {
    for target in ["", "untrusted", "gone"] {
        let Verdict::Ask { targets, .. } = decide("qubes.Filecopy", target).verdict else {
            panic!("a copy to '{target}' was not asked for");
        };
        assert!(targets.contains(&Destination::Vm("untrusted".to_owned())));
        assert!(!targets.contains(&Destination::Vm("work".to_owned())));
        assert!(!targets.contains(&Destination::Admin));
    }
}

#[test]
fn documents_and_addresses_open_in_disposables() {
    for service in ["qubes.OpenInVM", "qubes.OpenURL"] {
        assert!(matches!(
            decide(service, "@dispvm").verdict,
            Verdict::Allow { target: Destination::Disposable { template }, .. } if template == "debian-12"
        ));
        assert!(matches!(
            decide(service, "untrusted").verdict,
            Verdict::Ask { .. }
        ));
    }
}

#[test]
fn everything_else_is_refused_by_a_line_that_can_be_named() {
    for (service, target) in [
        ("qubes.VMShell", "untrusted"),
        ("qubes.VMShell", "@dispvm"),
        ("qubes.StartApp", "untrusted"),
        ("some.Service", "untrusted"),
        ("some.Service", "dom0"),
        ("qubes.Filecopy", "@adminvm"),
        ("qubes.OpenInVM", "dom0"),
        ("qubes.OpenURL", "dom0"),
    ] {
        let decision = decide(service, target);
        assert_eq!(
            decision.verdict,
            Verdict::Deny(Denial::Rule),
            "{service} to {target}"
        );
        let line = decision.rule.expect("a rule").line;
        let rule = RULES.lines().nth(line as usize - 1).expect("the line");
        assert!(rule.ends_with("deny"), "{rule}");
    }
}
