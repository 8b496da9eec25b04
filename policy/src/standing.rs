//! The policy that holds while somebody edits it.
//!
//! A text with an error neither stops all work nor opens anything: what the last faultless text allowed stays allowed,
//! unless a rule that can still be read in the new text denies it.

use crate::{
    decision::{Decision, Denial, Destination, Request, Verdict},
    facts::Facts,
    parse::Reading,
    policy::Policy,
    rule::Place,
};

/// What calls are judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The last policy without a fault; `None` when there was none since the start.
    good: Option<Policy>,
    /// Rules of a newer text that has faults.
    remains: Policy,
    faults: Vec<String>,
}

impl Standing {
    /// What holds when nothing could be read: every call is denied.
    #[must_use]
    pub fn faulty(fault: String) -> Self {
        Self {
            good: None,
            remains: Policy::default(),
            faults: vec![fault],
        }
    }

    /// What holds after a new reading; `faults` are those of the directories themselves.
    #[must_use]
    pub fn follow(self, reading: Reading, faults: Vec<String>) -> Self {
        let errors = reading.errors.iter().map(ToString::to_string);
        let faults: Vec<String> = faults.into_iter().chain(errors).collect();
        if faults.is_empty() {
            return Self {
                good: Some(reading.rules),
                remains: Policy::default(),
                faults,
            };
        }
        Self {
            good: self.good,
            remains: reading.rules,
            faults,
        }
    }

    /// What is wrong with the text as it is now, each with file, line and column; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The last policy without a fault.
    #[must_use]
    pub fn good(&self) -> Option<&Policy> {
        self.good.as_ref()
    }

    /// Judges a call. With a fault it is allowed only if the last good policy allows it and no rule that can still be
    /// read denies it first.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>, facts: &Facts) -> Decision {
        let Some(good) = &self.good else {
            return Decision {
                verdict: Verdict::Deny(Denial::NoPolicy),
                rule: None,
                notify: true,
            };
        };
        let mut decision = good.decide(request, facts);
        if self.faults.is_empty() || matches!(decision.verdict, Verdict::Deny(_)) {
            return decision;
        }
        if let Some(rule) = self.denies(request, facts) {
            return denied(rule);
        }
        if let Verdict::Ask {
            targets, default, ..
        } = &mut decision.verdict
        {
            let denied_to = |target: &Destination| {
                let target = target.to_string();
                self.denies(
                    &Request {
                        target: &target,
                        ..*request
                    },
                    facts,
                )
            };
            let mut first = None;
            targets.retain(|target| match denied_to(target) {
                None => true,
                Some(rule) => {
                    first.get_or_insert(rule);
                    false
                }
            });
            *default = default.take().filter(|default| targets.contains(default));
            if let (true, Some(rule)) = (targets.is_empty(), first) {
                return denied(rule);
            }
        }
        decision
    }

    /// The rule of the new text that denies a call.
    fn denies(&self, request: &Request<'_>, facts: &Facts) -> Option<Place> {
        let decision = self.remains.decide(request, facts);
        match decision.verdict {
            Verdict::Deny(Denial::Rule) => decision.rule,
            _ => None,
        }
    }
}

fn denied(rule: Place) -> Decision {
    Decision {
        verdict: Verdict::Deny(Denial::Rule),
        rule: Some(rule),
        notify: true,
    }
}
