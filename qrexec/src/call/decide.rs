//! Whether a call may go on: the rules, the person where they ask, and what the person allowed before.

use std::sync::Arc;

use casemate_api::{AskTarget, Question};
use casemate_policy::{Decision, Denial, Destination, Facts, Request, Verdict};

use super::{Call, Granted, Refusal, relay};
use crate::{
    ask::AskError,
    audit::{Outcome, shown},
    grants::{Chosen, Key},
};

/// The label of disposables, whatever their template's is.
const DISPOSABLE_LABEL: &str = "red";

/// What a person chose, and what was known of it when the question was shown.
struct Choice {
    target: Destination,
    for_a_while: bool,
    /// The label that it was shown with.
    label: String,
    /// Which VM of that name ran then, or which relay of it; `None` when there was none.
    instance: Option<u64>,
}

impl Call {
    /// What policy says, and the person where policy asks.
    pub(super) async fn decide(&self) -> Result<Granted, Refusal> {
        let (decision, facts) = self.judge().await?;
        let rule = place(&decision);
        let notify = decision.notify;
        let asks = matches!(decision.verdict, Verdict::Ask { .. });
        if !asks && self.broker.has_grants() {
            self.broker.forget_grant(&self.key());
        }
        match decision.verdict {
            Verdict::Deny(denial) => Err(Refusal {
                outcome: Outcome::Deny,
                rule,
                reason: denial.to_string(),
                notify,
            }),
            Verdict::Allow {
                target,
                user,
                autostart,
            } => {
                let granted = Granted {
                    target,
                    via: None,
                    user,
                    autostart,
                    outcome: Outcome::Allow,
                    rule,
                    notify,
                    instance: None,
                    for_a_while: false,
                    template_uuid: None,
                };
                self.brought(granted, &facts)
            }
            Verdict::Ask {
                targets,
                default,
                user,
                autostart,
            } => {
                if let Some((target, instance)) = self.granted(&targets, &facts) {
                    return Ok(Granted {
                        target,
                        via: None,
                        user,
                        autostart,
                        outcome: Outcome::Granted,
                        rule,
                        notify,
                        instance,
                        for_a_while: false,
                        template_uuid: None,
                    });
                }
                let choice = self.ask(targets, default, &rule, &facts).await?;
                self.judge_again(choice, &facts).await
            }
        }
    }

    /// What may go to a remote VM goes to its relay, whose own account it runs as.
    fn brought(&self, granted: Granted, facts: &Facts) -> Result<Granted, Refusal> {
        let via = relay::relayed(facts, &granted.target, &self.request());
        match via {
            Ok(None) => Ok(granted),
            Ok(via) => Ok(Granted {
                via,
                user: None,
                ..granted
            }),
            Err(reason) => Err(Refusal {
                rule: granted.rule,
                ..Refusal::failed(&reason)
            }),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            source: self.judged().as_str(),
            target: self.requested.as_str(),
            service: self.service.service(),
            argument: self.service.argument(),
        }
    }

    /// Which calls a grant of this one would be for.
    pub(super) fn key(&self) -> Key {
        Key {
            source: self.source.instance(),
            remote: self.remote.clone(),
            service: self.service.full().to_owned(),
            requested: self.requested.to_string(),
        }
    }

    /// Where the call may go without a question, because the person said so not long ago; and to which instance.
    fn granted(
        &self,
        targets: &[Destination],
        facts: &Facts,
    ) -> Option<(Destination, Option<u64>)> {
        let key = self.key();
        let grant = self.broker.grant(&key)?;
        let target = grant.chosen.destination();
        let (is_same, instance) = match &grant.chosen {
            Chosen::Vm(instance) => (self.broker.is_current(instance), Some(instance.number)),
            Chosen::Disposable { uuid, .. } => {
                (self::uuid(facts, &target) == uuid.as_deref(), None)
            }
        };
        if is_same && targets.contains(&target) {
            return Some((target, instance));
        }
        self.broker.forget_grant(&key);
        None
    }

    /// One decision by the policy and the facts of this moment.
    async fn judge(&self) -> Result<(Decision, Arc<Facts>), Refusal> {
        let facts = self
            .broker
            .peers
            .facts()
            .await
            .map_err(|error| Refusal::failed(&error))?;
        let policy = self.broker.policy().await;
        self.may_speak(&facts).map_err(|reason| Refusal {
            outcome: Outcome::Deny,
            ..Refusal::failed(&reason)
        })?;
        let decision = policy.decide(&self.request(), &facts);
        if let (Verdict::Deny(denial), [fault, ..]) = (&decision.verdict, policy.faults()) {
            return Err(Refusal {
                outcome: Outcome::Deny,
                rule: decision
                    .rule
                    .map(|rule| rule.to_string())
                    .unwrap_or_default(),
                reason: format!("{denial}; the policy has an error: {fault}"),
                // Without any policy the person is told of that instead.
                notify: decision.notify && *denial != Denial::NoPolicy,
            });
        }
        Ok((decision, facts))
    }

    async fn ask(
        &self,
        mut targets: Vec<Destination>,
        default: Option<Destination>,
        rule: &str,
        facts: &Facts,
    ) -> Result<Choice, Refusal> {
        let refusal = |outcome, reason: String, notify| Refusal {
            outcome,
            rule: rule.to_owned(),
            reason,
            notify,
        };
        let labels = self
            .broker
            .peers
            .labels()
            .await
            .map_err(|error| Refusal::failed(&error))?;
        // The admin domain serves nothing and a template is not started for a call, so they are no choice.
        targets.retain(|target| match target {
            Destination::Admin => false,
            Destination::Disposable { .. } => true,
            Destination::Vm(name) => labels.contains_key(here(name, facts)),
        });
        // What a person most often means comes first.
        targets.sort_by_key(|target| matches!(target, Destination::Disposable { .. }));
        if targets.is_empty() {
            let reason = "there is no VM to choose as target".to_owned();
            return Err(refusal(Outcome::Deny, reason, true));
        }
        let label = |name: &str| labels.get(here(name, facts)).cloned().unwrap_or_default();
        let label_of = |target: &Destination| match target {
            Destination::Disposable { .. } => DISPOSABLE_LABEL.to_owned(),
            Destination::Vm(name) => label(name),
            Destination::Admin => String::new(),
        };
        let running = targets.iter().map(|target| self.running(target, facts));
        let running: Vec<Option<u64>> = running.collect();
        let question = Question {
            source: AskTarget {
                name: self.judged().to_string(),
                label: label(self.source.name.as_str()),
            },
            service: self.service.service().to_owned(),
            argument: shown(self.service.argument()),
            targets: targets
                .iter()
                .map(|target| AskTarget {
                    name: target.to_string(),
                    label: label_of(target),
                })
                .collect(),
            default_target: default
                .filter(|default| targets.contains(default))
                .map(|default| default.to_string())
                .unwrap_or_default(),
        };
        let asked = self
            .source
            .attention
            .ask(&self.broker.peers, question)
            .await;
        let answer = asked.map_err(|error| {
            // What is denied because there are too many must not add to them.
            let notify = error != AskError::TooMany;
            refusal(Outcome::Deny, error.to_string(), notify)
        })?;
        if !answer.allowed {
            let reason = "the person said no".to_owned();
            return Err(refusal(Outcome::AskDenied, reason, false));
        }
        let chosen = targets
            .into_iter()
            .zip(running)
            .find(|(target, _)| target.to_string() == answer.target);
        let chosen = chosen.map(|(target, instance)| Choice {
            label: label_of(&target),
            target,
            for_a_while: answer.for_a_while,
            instance,
        });
        chosen.ok_or_else(|| {
            let reason = "the answer names a target that was no choice".to_owned();
            refusal(Outcome::Deny, reason, true)
        })
    }

    /// While the person thought, rules and VMs may have changed: the choice must still be one, of the same VM.
    async fn judge_again(&self, choice: Choice, before: &Facts) -> Result<Granted, Refusal> {
        let Choice {
            target: chosen,
            for_a_while,
            label,
            instance,
        } = choice;
        let (decision, facts) = self.judge().await?;
        let rule = place(&decision);
        let notify = decision.notify;
        let granted = match decision.verdict {
            Verdict::Ask {
                targets,
                user,
                autostart,
                ..
            } => targets.contains(&chosen).then_some((user, autostart)),
            Verdict::Allow {
                target,
                user,
                autostart,
            } => (target == chosen).then_some((user, autostart)),
            Verdict::Deny(_) => None,
        };
        let granted = granted.filter(|_| uuid(before, &chosen) == uuid(&facts, &chosen));
        // What was started again meanwhile, or has another colour, is not what the person looked at.
        let is_seen = (instance.is_none() || instance == self.running(&chosen, &facts))
            && self.has_label(&chosen, &facts, &label).await?;
        let granted = granted.filter(|_| is_seen);
        match granted {
            Some((user, autostart)) => {
                let granted = Granted {
                    template_uuid: uuid(&facts, &chosen).map(str::to_owned),
                    target: chosen,
                    via: None,
                    user,
                    autostart,
                    outcome: Outcome::AskAllowed,
                    rule,
                    notify,
                    instance,
                    for_a_while,
                };
                self.brought(granted, &facts)
            }
            None => Err(Refusal {
                outcome: Outcome::Deny,
                rule,
                reason: "the policy or the target changed while the person was asked".to_owned(),
                notify: true,
            }),
        }
    }

    /// Which VM of a name runs now.
    fn running(&self, target: &Destination, facts: &Facts) -> Option<u64> {
        let Destination::Vm(name) = target else {
            return None;
        };
        let vm = self.broker.vm(&here(name, facts).parse().ok()?)?;
        Some(vm.number)
    }

    /// Whether a place still has the label that it was shown with.
    async fn has_label(
        &self,
        target: &Destination,
        facts: &Facts,
        label: &str,
    ) -> Result<bool, Refusal> {
        let Destination::Vm(name) = target else {
            return Ok(true);
        };
        let labels = self.broker.peers.labels().await;
        let labels = labels.map_err(|error| Refusal::failed(&error))?;
        let now = labels.get(here(name, facts));
        Ok(now.is_some_and(|now| now == label))
    }
}

/// A remote VM is as present, and as trusted, as the VM that speaks for it.
fn here<'a>(name: &'a str, facts: &'a Facts) -> &'a str {
    facts.relay_of(name).unwrap_or(name)
}

fn place(decision: &Decision) -> String {
    decision
        .rule
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// What tells a VM from a later one of the same name.
fn uuid<'a>(facts: &'a Facts, target: &Destination) -> Option<&'a str> {
    let (Destination::Vm(name) | Destination::Disposable { template: name }) = target else {
        return None;
    };
    facts.domains.get(name)?.uuid.as_deref()
}
