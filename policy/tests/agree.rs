//! What is decided, explained, drawn and compared is the same, whatever the rules; and no fault opens anything.

mod house;

use std::collections::BTreeSet;

use casemate_policy::{ANY, Denial, Destination, Policy, Request, Standing, Verdict, Way};
use house::{facts, read, reading};
use proptest::{
    prelude::*,
    sample::{Index, select},
};

const SOURCES: [&str; 8] = [
    "work", "bank", "bare", "disp1", "relay", "dom0", "gone", "uuid:11",
];

const TARGETS: [&str; 14] = [
    "",
    "work",
    "bank",
    "hidden",
    "dvm",
    "uuid:22",
    "dom0",
    "@adminvm",
    "@dispvm",
    "@dispvm:dvm",
    "@dispvm:uuid:55",
    "@dispvm:gone",
    "gone",
    "@anyvm",
];

/// Services and arguments, and what stands for them where nobody names them.
const CALLS: [(&str, &str); 5] = [
    ("s", "+"),
    ("s", "+x"),
    ("s", "+other"),
    ("t", "+"),
    ("new.Service", "+x"),
];

fn line() -> impl Strategy<Value = String> {
    let service = select(vec!["s *", "s +", "s +x", "t *", "* *"]);
    let source = select(vec![
        "work",
        "uuid:22",
        "*",
        "@anyvm",
        "@tag:own",
        "@type:DispVM",
        "dom0",
        "@dispvm:dvm",
    ]);
    let target = select(vec![
        "work",
        "bank",
        "uuid:44",
        "*",
        "@anyvm",
        "@default",
        "@tag:own",
        "@tag:t",
        "@type:AppVM",
        "@adminvm",
        "@dispvm",
        "@dispvm:dvm",
        "@dispvm:uuid:55",
        "@dispvm:@tag:t",
        "gone",
        "@dispvm:gone",
    ]);
    let action = select(vec![
        "deny",
        "deny notify=no",
        "allow target=bank",
        "allow target=@dispvm",
        "allow target=gone user=u",
        "ask",
        "ask target=uuid:22",
        "ask default_target=bank notify=yes",
        "ask autostart=no",
        "allow target=dvm2 autostart=no",
        "allow",
    ]);
    (service, source, target, action).prop_map(|(service, source, target, action)| {
        // An allow to nowhere is no rule.
        let action = match (target, action) {
            ("@default", "allow") => "deny",
            _ => action,
        };
        format!("{service} {source} {target} {action}")
    })
}

fn lines() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(line(), 0..9)
}

fn requests() -> impl Iterator<Item = Request<'static>> {
    SOURCES.into_iter().flat_map(|source| {
        TARGETS.into_iter().flat_map(move |target| {
            CALLS.into_iter().map(move |(service, argument)| Request {
                source,
                target,
                service,
                argument,
            })
        })
    })
}

fn places(verdict: &Verdict) -> BTreeSet<Destination> {
    match verdict {
        Verdict::Deny(_) => BTreeSet::new(),
        Verdict::Allow { target, .. } => [target.clone()].into(),
        Verdict::Ask { targets, .. } => targets.iter().cloned().collect(),
    }
}

/// What a call is called where only named services and arguments have names of their own.
fn class<'a>(policy: &Policy, request: &Request<'a>) -> (&'a str, &'a str) {
    let calls = policy.calls();
    let candidates = [
        (request.service, request.argument),
        (request.service, ANY),
        (ANY, ANY),
    ];
    candidates
        .into_iter()
        .find(|call| calls.contains(call))
        .expect("every call has a class")
}

/// A caller by its name.
fn name(source: &str) -> &str {
    match source {
        "uuid:11" => "work",
        source => source,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_explanation_says_what_is_decided(lines in lines()) {
        let facts = facts();
        let policy = read(&lines.join("\n")).expect("generated rules are valid");
        for request in requests() {
            let decision = policy.decide(&request, &facts);
            let told = policy.explain(&request, &facts);
            prop_assert_eq!(&told.decision, &decision, "{:?}", request);
            prop_assert_eq!(told.decided.map(|rule| &rule.place), decision.rule.as_ref());
            let refused = matches!(
                decision.verdict,
                Verdict::Deny(Denial::InvalidTarget | Denial::NotADisposableTemplate)
            ) && decision.rule.is_none();
            match told.decided {
                Some(rule) => {
                    // Those that were passed are all the rules before it, and alone they decide nothing.
                    let before = rule.place.line as usize - 1;
                    prop_assert_eq!(told.passed.len(), before);
                    let alone = read(&lines[..before].join("\n")).expect("a part is valid");
                    let alone = alone.decide(&request, &facts);
                    prop_assert_eq!(alone.verdict, Verdict::Deny(Denial::NoRule));
                    // Without it, the one that is named decides.
                    let mut rest = lines.clone();
                    rest[before] = String::new();
                    let rest = read(&rest.join("\n")).expect("a part is valid").decide(&request, &facts);
                    let expected = match rest.rule {
                        Some(next) => format!("without {} the rule at {next} would decide", rule.place),
                        None => format!("without {} no rule would match", rule.place),
                    };
                    prop_assert!(told.otherwise[0].starts_with(&expected), "{:?} {expected}", told.otherwise);
                }
                None if refused => prop_assert!(told.passed.is_empty()),
                None => prop_assert_eq!(told.passed.len(), lines.len()),
            }
        }
    }

    #[test]
    fn the_drawing_shows_every_way_and_no_other(lines in lines()) {
        let facts = facts();
        let policy = read(&lines.join("\n")).expect("generated rules are valid");
        let drawn = policy.reach(&facts);
        let mut found = BTreeSet::new();
        for request in requests().filter(|request| request.source != "gone") {
            let verdict = policy.decide(&request, &facts).verdict;
            let (service, argument) = class(&policy, &request);
            for target in places(&verdict) {
                found.insert(Way {
                    source: name(request.source).to_owned(),
                    service: service.to_owned(),
                    argument: argument.to_owned(),
                    target,
                    asks: matches!(verdict, Verdict::Ask { .. }),
                });
            }
        }
        let missing: Vec<_> = found.difference(&drawn).collect();
        prop_assert!(missing.is_empty(), "not drawn: {missing:?}");
        for way in &drawn {
            let has_way = facts.askable().iter().any(|target| {
                let request = Request {
                    source: &way.source,
                    target,
                    service: &way.service,
                    argument: &way.argument,
                };
                let verdict = policy.decide(&request, &facts).verdict;
                matches!(verdict, Verdict::Ask { .. }) == way.asks && places(&verdict).contains(&way.target)
            });
            prop_assert!(has_way, "drawn and not there: {way:?}");
            prop_assert!(way.target != Destination::Vm(way.source.clone()), "to itself: {way:?}");
        }
    }

    #[test]
    fn a_comparison_names_what_is_decided_otherwise(old in lines(), new in lines(), same in any::<bool>()) {
        let facts = facts();
        let new = if same { old.clone() } else { new };
        let read = |lines: Vec<String>| read(&lines.join("\n")).expect("generated rules are valid");
        let (old, new) = (read(old), read(new));
        let changes = old.changes(&new, &facts);
        prop_assert!(!same || changes.is_empty());
        for change in &changes {
            let request = Request {
                source: &change.source,
                target: &change.target,
                service: &change.service,
                argument: &change.argument,
            };
            prop_assert_eq!(&change.old, &old.decide(&request, &facts));
            prop_assert_eq!(&change.new, &new.decide(&request, &facts));
            prop_assert_ne!(&change.old, &change.new);
        }
        // By the spellings of people: whatever is let through otherwise is among what was named.
        for request in requests().filter(|request| !["gone", "uuid:11"].contains(&request.source)) {
            let (before, after) = (old.decide(&request, &facts).verdict, new.decide(&request, &facts).verdict);
            if places(&before) == places(&after) && before.word() == after.word() {
                continue;
            }
            let (a, b) = (class(&old, &request), class(&new, &request));
            let is_named = changes.iter().any(|change| {
                let call = (change.service.as_str(), change.argument.as_str());
                change.source == request.source && (call == a || call == b)
            });
            prop_assert!(is_named, "{request:?}: {before:?} {after:?}");
        }
    }

    #[test]
    fn no_damage_to_a_text_opens_anything(
        good in lines(),
        new in lines(),
        at in any::<Index>(),
        damage in select(vec!["oops", "s * a", "* * * * alow", "s * @x b deny", "!include", "!what", "s * a b deny x"]),
    ) {
        let facts = facts();
        let good = good.join("\n");
        let mut damaged = new;
        damaged.insert(at.index(damaged.len() + 1), damage.to_owned());
        let start = Standing::faulty("nothing was read yet".to_owned());
        let before = start.clone().follow(reading(&good), Vec::new());
        let during = before.clone().follow(reading(&damaged.join("\n")), Vec::new());
        prop_assert!(!during.faults().is_empty());
        let from_start = start.follow(reading(&damaged.join("\n")), Vec::new());
        for request in requests() {
            let open = places(&before.decide(&request, &facts).verdict);
            let left = during.decide(&request, &facts);
            prop_assert!(places(&left.verdict).is_subset(&open), "{request:?}");
            if let Verdict::Deny(_) = before.decide(&request, &facts).verdict {
                prop_assert!(matches!(left.verdict, Verdict::Deny(_)));
            }
            // A deny of what can still be read counts at once.
            let now = reading(&damaged.join("\n")).rules.decide(&request, &facts);
            if now.verdict == Verdict::Deny(Denial::Rule) {
                prop_assert!(matches!(left.verdict, Verdict::Deny(_)), "{request:?}");
            }
            prop_assert_eq!(
                from_start.decide(&request, &facts).verdict,
                Verdict::Deny(Denial::NoPolicy)
            );
        }
    }
}
