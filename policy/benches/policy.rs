//! Speed of reading and judging with 301 rules, as many as a busy house has: `cargo bench -p casemate-policy`.
//!
//! What was promised: the rules are read in 1 ms or less, a call is judged in 2 us or less.

use std::{fmt::Write, hint::black_box};

use casemate_policy::{Facts, Files, Policy, PolicyFile, Request, Verdict};
use criterion::{Criterion, criterion_group, criterion_main};

/// Services that have rules; each has three, and one rule ends the policy.
const SERVICES: usize = 100;

/// VMs, of which every fifth is a template of disposables.
const VMS: usize = 20;

struct Text(String);

impl Files for Text {
    fn text(&self, _: usize, _: &str) -> Result<String, String> {
        Ok(self.0.clone())
    }

    fn names(&self, _: usize, _: &str) -> Result<Vec<String>, String> {
        Err("there are no directories".to_owned())
    }

    fn display(&self, _: usize, path: &str) -> String {
        path.to_owned()
    }
}

fn rules() -> Text {
    let mut text = String::new();
    for number in 0..SERVICES {
        let (caller, target) = (number % VMS, (number + 7) % VMS);
        writeln!(text, "test.Service{number:03} +arg{number} vm{caller} vm{target} allow user=root autostart=no")
            .and_then(|()| writeln!(text, "test.Service{number:03} * @tag:own @dispvm:vm{target} deny notify=no"))
            .and_then(|()| writeln!(text, "test.Service{number:03} * @anyvm @tag:own ask default_target=@dispvm"))
            .expect("a text takes everything");
    }
    text += "* * @anyvm @anyvm deny\n";
    Text(text)
}

fn facts() -> Facts {
    let domain = |number: usize| {
        let template = number.is_multiple_of(5);
        format!(
            r#""vm{number}":{{"type":"AppVM","power_state":"Running","tags":["own","more"],"default_dispvm":"vm0",
            "template_for_dispvms":{template},"uuid":"00000000-0000-0000-0000-0000000001{number:02}"}}"#
        )
    };
    let domains: Vec<String> = (0..VMS).map(domain).collect();
    let json = format!(r#"{{"domains":{{{}}}}}"#, domains.join(","));
    serde_json::from_str(&json).expect("facts")
}

fn read(text: &Text) -> Policy {
    let top = PolicyFile {
        directory: 0,
        name: "10-bench.policy".to_owned(),
    };
    Policy::read(&[top], text).expect("rules")
}

fn benches(criterion: &mut Criterion) {
    let text = rules();
    let policy = read(&text);
    assert_eq!(policy.rules().len(), SERVICES * 3 + 1);
    criterion.bench_function("read/301-rules", |bencher| {
        bencher.iter(|| read(black_box(&text)));
    });

    let facts = facts();
    let mut judge = |name: &str, service, argument, source, target, expected| {
        let request = Request {
            source,
            target,
            service,
            argument,
        };
        let decision = policy.decide(&request, &facts);
        assert_eq!(decision.verdict.word(), expected, "{name}");
        if let Verdict::Ask { targets, .. } = decision.verdict {
            assert!(
                targets.len() > VMS / 2,
                "a question with few choices is no measure"
            );
        }
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| policy.decide(black_box(&request), black_box(&facts)));
        });
    };
    judge(
        "judge/first-rule",
        "test.Service000",
        "+arg0",
        "vm0",
        "vm7",
        "allow",
    );
    judge(
        "judge/last-service",
        "test.Service099",
        "+arg99",
        "vm19",
        "vm6",
        "allow",
    );
    judge(
        "judge/last-rule",
        "other.Service",
        "+",
        "vm1",
        "vm2",
        "deny",
    );
    judge(
        "judge/by-uuid",
        "test.Service050",
        "+arg50",
        "vm10",
        "uuid:00000000-0000-0000-0000-000000000117",
        "allow",
    );
    judge("judge/ask", "test.Service050", "+", "vm1", "vm2", "ask");
}

criterion_group!(policy, benches);
criterion_main!(policy);
