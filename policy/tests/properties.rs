//! What holds for any rules: no text makes the parser panic, and a deny put in front never lets more through.

use casemate_policy::{
    Denial, Destination, Domain, Facts, Files, Policy, PolicyFile, Problem, Request, Verdict,
};
use proptest::prelude::*;

/// One file under every path.
struct One<'a>(&'a str);

impl Files for One<'_> {
    fn text(&self, _: usize, _: &str) -> Result<String, String> {
        Ok(self.0.to_owned())
    }

    fn names(&self, _: usize, _: &str) -> Result<Vec<String>, String> {
        Ok(vec!["10-a.policy".to_owned()])
    }

    fn display(&self, _: usize, path: &str) -> String {
        path.to_owned()
    }
}

fn read(text: &str) -> Result<Policy, casemate_policy::PolicyError> {
    let top = PolicyFile {
        directory: 0,
        name: "10-a.policy".to_owned(),
    };
    Policy::read(&[top], &One(text))
}

fn facts() -> Facts {
    let domain = |kind: &str, tag: &str, template, running| Domain {
        kind: kind.to_owned(),
        tags: [tag.to_owned()].into(),
        default_dispvm: Some("tpl".to_owned()),
        template_for_dispvms: template,
        running,
        ..Domain::default()
    };
    let domains = [
        ("a", domain("AppVM", "x", false, true)),
        ("b", domain("AppVM", "y", false, false)),
        ("tpl", domain("TemplateVM", "x", true, false)),
        ("disp1", domain("DispVM", "y", false, true)),
    ];
    Facts {
        domains: domains
            .map(|(name, domain)| (name.to_owned(), domain))
            .into(),
    }
}

fn rule() -> impl Strategy<Value = String> {
    let source = prop::sample::select(vec![
        "a",
        "b",
        "*",
        "@anyvm",
        "@tag:x",
        "@type:DispVM",
        "dom0",
    ]);
    let target = prop::sample::select(vec![
        "a",
        "b",
        "*",
        "@anyvm",
        "@tag:y",
        "@type:AppVM",
        "@adminvm",
        "@dispvm",
        "@dispvm:tpl",
        "gone",
        "@dispvm:gone",
        "@dispvm:@tag:x",
    ]);
    let action = prop::sample::select(vec![
        "allow",
        "deny",
        "ask",
        "ask target=b",
        "allow target=@dispvm",
        "allow autostart=no",
        "ask default_target=b",
    ]);
    let service = prop::sample::select(vec!["s *", "s +", "s +x", "* *"]);
    (service, source, target, action).prop_map(|(service, source, target, action)| {
        format!("{service} {source} {target} {action}\n")
    })
}

/// Every place that a decision lets a call reach, with or without asking.
fn reachable(verdict: &Verdict) -> Vec<Destination> {
    match verdict {
        Verdict::Deny(_) => Vec::new(),
        Verdict::Allow { target, .. } => vec![target.clone()],
        Verdict::Ask { targets, .. } => targets.clone(),
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "([ -~\\n\t#é]|!include x|@dispvm:|allow|=){0,80}") {
        let _ = read(&text).map(|policy| policy.rules().len());
    }

    #[test]
    fn a_deny_in_front_lets_nothing_more_through(
        rules in prop::collection::vec(rule(), 0..8),
        deny in rule(),
        source in prop::sample::select(vec!["a", "b", "tpl", "disp1", "dom0", "gone"]),
        target in prop::sample::select(vec!["", "a", "b", "@dispvm", "@dispvm:tpl", "dom0", "gone", "@anyvm"]),
        argument in prop::sample::select(vec!["+", "+x"]),
    ) {
        let facts = facts();
        let request = Request { source, target, service: "s", argument };
        let decide = |text: &str| read(text).expect("generated rules are valid").decide(&request, &facts).verdict;
        let columns: Vec<&str> = deny.split(' ').take(4).collect();
        let rules = rules.concat();
        let before = reachable(&decide(&rules));
        let after = reachable(&decide(&format!("{} deny\n{rules}", columns.join(" "))));
        prop_assert!(after.iter().all(|place| before.contains(place)), "{before:?} {after:?}");
        prop_assert!(!before.contains(&Destination::Vm(source.to_owned())), "a VM reached itself");
    }
}

#[test]
fn an_error_says_where_it_is() {
    for (text, place) in [
        ("# fine\n\n  s * a b allow oops", "10-a.policy:3:17"),
        ("s * a b permit", "10-a.policy:1:9"),
        ("s * @default b allow", "10-a.policy:1:5"),
        ("s * a @default allow", "10-a.policy:1:7"),
        ("s *\ta b allow notify=maybe", "10-a.policy:1:15"),
        ("!compat-4.0 x", "10-a.policy:1:1"),
        ("!include-service s/ * f", "10-a.policy:1:18"),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(
            error.starts_with(&format!("{place}: ")),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn a_file_that_includes_itself_is_refused() {
    let error = read("!include 10-a.policy").expect_err("an endless policy");
    assert_eq!(error.problem, Problem::TooDeep);
}

#[test]
fn nothing_is_allowed_by_nothing() {
    let policy = read("").expect("an empty policy is valid");
    let request = Request {
        source: "a",
        target: "b",
        service: "s",
        argument: "+",
    };
    assert_eq!(
        policy.decide(&request, &facts()).verdict,
        Verdict::Deny(Denial::NoRule)
    );
}
