//! Who can reach whom: every call that can be told apart, and what is said of it.

use std::collections::BTreeSet;

use crate::{
    decision::{Decision, Destination, Request, Verdict},
    facts::Facts,
    policy::Policy,
    rule::Rule,
    token::VmRef,
};

/// Stands for every service, or every argument, that no rule names. No call can have it as its own.
pub const ANY: &str = "*";

/// One way from one VM to a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// The VM that calls.
    pub source: String,
    /// The service, or [`ANY`].
    pub service: String,
    /// The argument with its `+`, or [`ANY`].
    pub argument: String,
    /// Where the call arrives.
    pub target: Destination,
    /// Whether the person is asked first.
    pub asks: bool,
}

/// A call that two policies judge differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The VM that calls.
    pub source: String,
    /// The service, or [`ANY`].
    pub service: String,
    /// The argument with its `+`, or [`ANY`].
    pub argument: String,
    /// What is asked for; empty for the default.
    pub target: String,
    /// What the first policy says.
    pub old: Decision,
    /// What the second one says.
    pub new: Decision,
}

impl Policy {
    /// Services and arguments that rules name, and beside each named service the arguments that none names.
    #[must_use]
    pub fn calls(&self) -> BTreeSet<(&str, &str)> {
        let named = self.rules().iter().flat_map(|rule| {
            let service = rule.service.as_deref().unwrap_or(ANY);
            let argument = rule.argument.as_deref().unwrap_or(ANY);
            [(service, argument), (service, ANY)]
        });
        named.chain([(ANY, ANY)]).collect()
    }

    /// Every way that these rules open between the VMs of `facts`, with or without asking.
    #[must_use]
    pub fn reach(&self, facts: &Facts) -> BTreeSet<Way> {
        let targets = facts.askable();
        let mut ways = BTreeSet::new();
        for (service, argument) in self.calls() {
            for source in facts.domains.keys() {
                for target in &targets {
                    let request = Request {
                        source,
                        target,
                        service,
                        argument,
                    };
                    let (reached, asks) = match self.decide(&request, facts).verdict {
                        Verdict::Deny(_) => continue,
                        Verdict::Allow { target, .. } => (vec![target], false),
                        Verdict::Ask { targets, .. } => (targets, true),
                    };
                    ways.extend(reached.into_iter().map(|target| Way {
                        source: source.clone(),
                        service: service.to_owned(),
                        argument: argument.to_owned(),
                        target,
                        asks,
                    }));
                }
            }
        }
        ways
    }

    /// Every call between the VMs of `facts`, of any service that one of the two policies names, about which they do
    /// not say the same. That another rule says it is no difference.
    #[must_use]
    pub fn changes(&self, new: &Self, facts: &Facts) -> Vec<Change> {
        let targets = facts.askable();
        let mut changes = Vec::new();
        let calls: BTreeSet<_> = self.calls().into_iter().chain(new.calls()).collect();
        for (service, argument) in calls {
            if self.says_the_same(new, service, argument) {
                continue;
            }
            for source in facts.domains.keys() {
                for target in &targets {
                    let request = Request {
                        source,
                        target,
                        service,
                        argument,
                    };
                    let (old, new) = (self.decide(&request, facts), new.decide(&request, facts));
                    if !is_the_same(&old, &new) {
                        changes.push(Change {
                            source: source.clone(),
                            service: service.to_owned(),
                            argument: argument.to_owned(),
                            target: target.clone(),
                            old,
                            new,
                        });
                    }
                }
            }
        }
        changes
    }

    /// Whether both have the same rules for a service in the same order: then no call has to be judged.
    fn says_the_same(&self, other: &Self, service: &str, argument: &str) -> bool {
        let text = |rule: &Rule| {
            (
                rule.source.clone(),
                rule.target.clone(),
                rule.action.clone(),
                rule.notify,
            )
        };
        let ours = self.about(service, argument).map(text);
        ours.eq(other.about(service, argument).map(text))
    }
}

/// Whether neither caller nor person can tell two decisions apart; for what reason a call is denied is not told to them.
fn is_the_same(old: &Decision, new: &Decision) -> bool {
    let outcome = match (&old.verdict, &new.verdict) {
        (Verdict::Deny(_), Verdict::Deny(_)) => true,
        (old, new) => old == new,
    };
    outcome && old.notify == new.notify
}

impl Facts {
    /// What a caller may ask for, a text for each place that can be told apart; empty for the default.
    #[must_use]
    pub fn askable(&self) -> BTreeSet<String> {
        let templates = self
            .vms()
            .filter(|(_, domain)| domain.template_for_dispvms)
            .map(|(name, _)| format!("@dispvm:{name}"));
        let words = ["", "@dispvm", VmRef::ADMIN_NAME].map(str::to_owned);
        let names = self.domains.keys().cloned();
        names.chain(templates).chain(words).collect()
    }
}
