//! Why a call is judged as it is: the rules in front of the one that decided, and what each of them lacked.

use crate::{
    decision::{Decision, Destination, Party, Request, Verdict},
    facts::Facts,
    policy::Policy,
    rule::Rule,
    token::Wish,
};

/// The column of a rule that does not speak about a call; the first one that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// Another service.
    Service,
    /// The service, but another argument.
    Argument,
    /// The service, but another caller.
    Source,
    /// Service and caller, but another target.
    Target,
}

/// One rule that was looked at and passed.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'p> {
    /// The rule.
    pub rule: &'p Rule,
    /// Why it was passed.
    pub because: Mismatch,
}

impl Passed<'_> {
    /// The reason in one line.
    #[must_use]
    pub fn reason(&self, request: &Request<'_>) -> String {
        let rule = self.rule;
        match self.because {
            Mismatch::Service => format!(
                "is about {}, not {}",
                rule.service.as_deref().unwrap_or("*"),
                request.service
            ),
            Mismatch::Argument => format!(
                "is about the argument {}, not {}",
                rule.argument.as_deref().unwrap_or("*"),
                request.argument
            ),
            Mismatch::Source => format!("the caller {} is not {}", request.source, rule.source),
            Mismatch::Target if request.target.is_empty() => {
                format!("no target was named, which is not {}", rule.target)
            }
            Mismatch::Target => format!("the target {} is not {}", request.target, rule.target),
        }
    }
}

/// A decision and the way to it.
#[derive(Clone, Debug)]
pub struct Explanation<'p> {
    /// The decision.
    pub decision: Decision,
    /// The rules that were passed, in their order; all of them when none matched.
    pub passed: Vec<Passed<'p>>,
    /// The rule that decided.
    pub decided: Option<&'p Rule>,
    /// What would give another answer, a sentence each.
    pub otherwise: Vec<String>,
}

impl Policy {
    /// Judges a call and says why.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>, facts: &Facts) -> Explanation<'_> {
        let decision = self.decide(request, facts);
        let source = Party::new(request.source, facts);
        let target = Wish::requested(request.target)
            .ok()
            .and_then(|wish| wish.look_up(facts).ok());
        let mut passed = Vec::new();
        let mut decided = None;
        let mut later = self.rules().iter();
        if let Some(target) = target {
            for rule in later.by_ref() {
                let speaks = rule
                    .service
                    .as_deref()
                    .is_none_or(|own| own == request.service);
                let because = if !speaks {
                    Mismatch::Service
                } else if !rule.matches_service(request.service, request.argument) {
                    Mismatch::Argument
                } else if !rule.source.matches_source(&source, facts) {
                    Mismatch::Source
                } else if !rule.target.matches_target(&target, &source, facts) {
                    Mismatch::Target
                } else {
                    decided = Some(rule);
                    break;
                };
                passed.push(Passed { rule, because });
            }
        }
        let mut otherwise = Vec::new();
        let next = later.find(|rule| {
            rule.matches_service(request.service, request.argument)
                && rule.source.matches_source(&source, facts)
                && target.is_some_and(|target| rule.target.matches_target(&target, &source, facts))
        });
        if let Some(rule) = decided {
            otherwise.push(match next {
                Some(next) => format!(
                    "without {} the rule at {} would decide: {}",
                    rule.place,
                    next.place,
                    next.action.word()
                ),
                None => format!("without {} no rule would match: deny", rule.place),
            });
        }
        otherwise.extend(self.nearest(request, facts, &decision));
        Explanation {
            decision,
            passed,
            decided,
            otherwise,
        }
    }

    /// Targets for which the answer is another one.
    fn nearest(&self, request: &Request<'_>, facts: &Facts, decision: &Decision) -> Option<String> {
        let word = decision.verdict.word();
        let places = facts.vms().flat_map(|(name, domain)| {
            let vm = Destination::Vm(name.to_owned());
            let template = domain
                .template_for_dispvms
                .then(|| Destination::Disposable {
                    template: name.to_owned(),
                });
            std::iter::once(vm).chain(template)
        });
        let others: Vec<String> = places
            .map(|place| place.to_string())
            .filter(|place| place != request.source && place != request.target)
            .filter_map(|place| {
                let asked = Request {
                    target: &place,
                    ..*request
                };
                let other = self.decide(&asked, facts).verdict.word();
                (other != word).then(|| format!("{place} ({other})"))
            })
            .collect();
        (!others.is_empty()).then(|| {
            format!(
                "other targets are answered otherwise: {}",
                others.join(", ")
            )
        })
    }
}

impl Verdict {
    /// `allow`, `deny` or `ask`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deny(_) => "deny",
            Self::Allow { .. } => "allow",
            Self::Ask { .. } => "ask",
        }
    }
}
