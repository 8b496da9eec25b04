//! What holds while a policy has an error, and what is said about rules.

use casemate_policy::{
    Denial, Domain, Facts, Files, PolicyFile, Reading, Request, Standing, Verdict,
};
use proptest::prelude::*;

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

fn read(text: &str) -> Reading {
    let top = PolicyFile {
        directory: 0,
        name: "10-a.policy".to_owned(),
    };
    Reading::new(&[top], &One(text))
}

fn facts() -> Facts {
    let domain = |template| Domain {
        kind: "AppVM".to_owned(),
        tags: ["t".to_owned()].into(),
        default_dispvm: Some("tpl".to_owned()),
        template_for_dispvms: template,
        running: true,
        ..Domain::default()
    };
    let domains = [("a", false), ("b", false), ("c", false), ("tpl", true)];
    Facts {
        domains: domains
            .map(|(name, template)| (name.to_owned(), domain(template)))
            .into(),
    }
}

fn after(texts: &[&str]) -> Standing {
    let start = Standing::faulty("nothing read yet".to_owned());
    texts.iter().fold(start, |standing, text| {
        standing.follow(read(text), Vec::new())
    })
}

fn verdict(standing: &Standing, target: &str) -> Verdict {
    let request = Request {
        source: "a",
        target,
        service: "s",
        argument: "+",
    };
    standing.decide(&request, &facts()).verdict
}

#[test]
fn without_a_good_policy_everything_is_denied() {
    let standing = after(&["s * a b allow\noops"]);
    assert_eq!(verdict(&standing, "b"), Verdict::Deny(Denial::NoPolicy));
    assert!(standing.faults()[0].starts_with("10-a.policy:2:1: "));
}

#[test]
fn the_last_good_policy_holds_but_for_what_the_new_text_denies() {
    let good = "s * a b allow\ns * a c allow";
    let standing = after(&[good, "s * a b deny\noops"]);
    assert_eq!(verdict(&standing, "b"), Verdict::Deny(Denial::Rule));
    assert!(matches!(verdict(&standing, "c"), Verdict::Allow { .. }));
    // What the new text would allow is not allowed by that.
    let standing = after(&["s * a c allow", "s * a b allow\noops"]);
    assert_eq!(verdict(&standing, "b"), Verdict::Deny(Denial::NoRule));
    // A mended text counts by itself.
    let standing = after(&[good, "oops", "s * a b deny"]);
    assert_eq!(standing.faults(), [] as [String; 0]);
    assert_eq!(verdict(&standing, "c"), Verdict::Deny(Denial::NoRule));
}

#[test]
fn a_deny_of_the_new_text_takes_targets_out_of_a_question() {
    let good = "s * a @anyvm ask default_target=b";
    let Verdict::Ask {
        targets, default, ..
    } = verdict(
        &after(&[good, "s * a b deny\ns * a @dispvm:tpl deny\noops"]),
        "",
    )
    else {
        panic!("no question");
    };
    let names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    assert_eq!(
        (names, default),
        (vec!["c".to_owned(), "tpl".to_owned()], None)
    );
    let all = after(&[good, "s * a @anyvm deny\noops"]);
    assert_eq!(verdict(&all, ""), Verdict::Deny(Denial::Rule));
}

proptest! {
    #[test]
    fn an_error_never_opens_anything(
        good in prop::collection::vec(prop::sample::select(vec![
            "s * a b allow", "s * a c ask", "s * * @anyvm ask", "s * a b deny", "s * a @dispvm allow", "s * a @tag:t deny",
        ]), 0..5),
        new in prop::collection::vec(prop::sample::select(vec![
            "s * a b allow", "s * a b deny", "s * * @anyvm deny", "s * a @dispvm:tpl deny", "* * * * allow", "oops",
        ]), 0..5),
        target in prop::sample::select(vec!["", "b", "c", "@dispvm", "@dispvm:tpl"]),
    ) {
        let good = good.join("\n");
        let broken = format!("{}\noops", new.join("\n"));
        let places = |verdict: Verdict| match verdict {
            Verdict::Deny(_) => Vec::new(),
            Verdict::Allow { target, .. } => vec![target],
            Verdict::Ask { targets, .. } => targets,
        };
        let before = places(verdict(&after(&[&good]), target));
        let during = places(verdict(&after(&[&good, &broken]), target));
        prop_assert!(during.iter().all(|place| before.contains(place)), "{before:?} {during:?}");
    }
}

/// What lint says of a text, one line each.
fn lint(text: &str) -> Vec<String> {
    let reading = read(text);
    assert_eq!(reading.errors, []);
    let findings = reading.rules.lint(Some(&facts()));
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn traps_are_found_where_they_are() {
    for (text, expected) in [
        (
            "s * a bb allow",
            "10-a.policy:1:7: there is no VM 'bb'; 'b' was perhaps meant",
        ),
        (
            "s * anyvm b deny",
            "10-a.policy:1:5: 'anyvm' is the name of a VM here; '@anyvm' was meant",
        ),
        (
            "s * a $dispvm deny",
            "10-a.policy:1:7: '$dispvm' is the name of a VM here; '@dispvm' was meant",
        ),
        (
            "s * a vm/x deny",
            "10-a.policy:1:7: 'vm/x' can be no VM's name",
        ),
        ("s * a ** deny", "10-a.policy:1:7: '**' can be no VM's name"),
        (
            "s * @tag:tt b deny",
            "10-a.policy:1:5: no VM has the tag 'tt'; 't' was perhaps meant",
        ),
        (
            "s * @type:AppVm b deny",
            "10-a.policy:1:5: there is no type 'AppVm'; 'AppVM' was perhaps meant",
        ),
        (
            "s * @dispvm:tpl b deny",
            "10-a.policy:1:5: '@dispvm:tpl' never matches as a source",
        ),
        (
            "s * a @dispvm:b allow",
            "10-a.policy:1:7: no disposables are made from 'b'",
        ),
        (
            "s * a b allow\ns * a b deny",
            "10-a.policy:2: is never reached: 10-a.policy:1 decides before",
        ),
        (
            "s * @anyvm @anyvm ask\ns +x a b deny",
            "10-a.policy:2: is never reached",
        ),
        (
            "s * a b deny\ns * a c allow target=b",
            "10-a.policy:2:9: 'target=b' goes past the deny at 10-a.policy:1",
        ),
        (
            "s * a @dispvm deny\ns * a @anyvm ask",
            "10-a.policy:1:7: a disposable slips through",
        ),
        (
            "s * a b ask default_target=bbb",
            "10-a.policy:1:9: there is no VM 'bbb'",
        ),
    ] {
        let found = lint(text);
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{text}: {found:#?}"
        );
    }
    for clean in [
        "s * a b allow",
        "s +x a b deny\ns * a b allow",
        "s * a @dispvm:tpl deny\ns * a dom0 ask",
        "s * @tag:t @type:AppVM ask",
    ] {
        assert_eq!(lint(clean), [] as [String; 0], "{clean}");
    }
}

#[test]
fn the_way_to_a_decision_is_told() {
    let policy = read(
        "x * a b deny\ns +y a b deny\ns * b b deny\ns * a c deny\ns * a b allow\ns * * * deny",
    )
    .rules;
    let facts = facts();
    let request = Request {
        source: "a",
        target: "b",
        service: "s",
        argument: "+",
    };
    let told = policy.explain(&request, &facts);
    let reasons: Vec<String> = told
        .passed
        .iter()
        .map(|passed| passed.reason(&request))
        .collect();
    assert_eq!(
        reasons,
        [
            "is about x, not s",
            "is about the argument +y, not +",
            "the caller a is not b",
            "the target b is not c",
        ]
    );
    assert_eq!(told.decided.map(|rule| rule.place.line), Some(5));
    assert_eq!(
        told.otherwise[0],
        "without 10-a.policy:5 the rule at 10-a.policy:6 would decide: deny"
    );
    assert!(told.otherwise[1].starts_with("other targets are answered otherwise: c (deny)"));
}

#[test]
fn the_rule_that_would_decide_instead_is_the_next_one_that_matches() {
    let facts = facts();
    let request = Request {
        source: "a",
        target: "b",
        service: "s",
        argument: "+",
    };
    for (text, expected) in [
        (
            "s * a b allow\ns * b b deny\ns * a @anyvm allow\ns * * * deny",
            "without 10-a.policy:1 the rule at 10-a.policy:3 would decide: allow",
        ),
        (
            "s * a b deny",
            "without 10-a.policy:1 no rule would match: deny",
        ),
    ] {
        let policy = read(text).rules;
        let told = policy.explain(&request, &facts);
        assert_eq!(told.otherwise.first().map(String::as_str), Some(expected));
    }
}
