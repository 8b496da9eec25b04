//! One call of a VM, from its trigger to its end. Runs in a task of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use casemate_api::{AskTarget, Question};
use casemate_policy::{Decision, Denial, Destination, Facts, Request, Verdict};
use casemate_qrexec_wire::{Execute, ServiceCall, Target, Trigger, Work};
use casemate_vm::VmName;
use tokio::{sync::watch, time::timeout};

use crate::{
    audit::{Entry, Outcome, shown},
    broker::{AGENT, Broker},
    session::{CallEnd, Caller, Host, Leg, Slots, Streams, Vm},
};

/// The user that stands for a VM's default user.
pub(crate) const DEFAULT_USER: &str = "DEFAULT";

/// The label of disposables, whatever their template's is.
const DISPOSABLE_LABEL: &str = "red";

/// How long the caller's end of a call may outlast the service's end, so that what the service said last is read.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// A call that may go on.
struct Granted {
    target: Destination,
    user: Option<String>,
    autostart: bool,
    outcome: Outcome,
    rule: String,
    notify: bool,
}

/// A call that may not, or cannot.
struct Refusal {
    outcome: Outcome,
    rule: String,
    reason: String,
    notify: bool,
}

impl Refusal {
    fn failed(reason: &impl ToString) -> Self {
        Self {
            outcome: Outcome::Failed,
            rule: String::new(),
            reason: reason.to_string(),
            notify: true,
        }
    }
}

struct Call {
    broker: Arc<Broker>,
    source: Vm,
    requested: Target,
    service: ServiceCall,
}

/// Judges a call and carries it out. `alive` closes when the caller cannot be answered any more.
pub(crate) async fn run(
    broker: Arc<Broker>,
    source: Vm,
    trigger: Trigger,
    caller: Caller,
    slots: Slots,
    mut alive: watch::Receiver<()>,
) {
    if !trigger.claimed_source.as_str().is_empty() {
        // Who calls is known from the link. A relay would need rules about whom it may speak for; there are none.
        tracing::debug!(vm = %source.name, "a caller named a source; ignored");
    }
    let service = match ServiceCall::sanitise(&trigger.service) {
        Ok(service) => service,
        Err(invalid) => {
            source.refuse(caller).await;
            broker.audit.record(Entry {
                source: source.name.to_string(),
                requested: trigger.target.to_string(),
                target: String::new(),
                service: String::new(),
                outcome: Outcome::Deny,
                rule: String::new(),
                reason: invalid.to_string(),
            });
            return;
        }
    };
    let call = Call {
        broker,
        source,
        requested: trigger.target,
        service,
    };
    let decided = tokio::select! {
        decided = call.decide() => decided,
        _ = alive.changed() => {
            call.record(Outcome::Failed, "", String::new(), "the caller ended before there was an answer");
            return;
        }
    };
    let result = match decided {
        Ok(granted) => call.carry_out(granted, &caller, slots).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = result {
        call.source.refuse(caller).await;
        call.refused(refusal).await;
    }
}

impl Call {
    /// What policy says, and the person where policy asks.
    async fn decide(&self) -> Result<Granted, Refusal> {
        let (decision, facts) = self.judge().await?;
        let rule = place(&decision);
        let notify = decision.notify;
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
            } => Ok(Granted {
                target,
                user,
                autostart,
                outcome: Outcome::Allow,
                rule,
                notify,
            }),
            Verdict::Ask {
                targets, default, ..
            } => {
                let chosen = self.ask(targets, default, &rule).await?;
                self.judge_again(chosen, &facts).await
            }
        }
    }

    /// One decision by the policy and the facts of this moment.
    async fn judge(&self) -> Result<(Decision, Facts), Refusal> {
        let facts = self
            .broker
            .peers
            .facts()
            .await
            .map_err(|error| Refusal::failed(&error))?;
        let policy = self.broker.policy().await;
        let request = Request {
            source: self.source.name.as_str(),
            target: self.requested.as_str(),
            service: self.service.service(),
            argument: self.service.argument(),
        };
        let decision = policy.decide(&request, &facts);
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
    ) -> Result<Destination, Refusal> {
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
            Destination::Vm(name) => labels.contains_key(name),
        });
        // What a person most often means comes first.
        targets.sort_by_key(|target| matches!(target, Destination::Disposable { .. }));
        if targets.is_empty() {
            let reason = "there is no VM to choose as target".to_owned();
            return Err(refusal(Outcome::Deny, reason, true));
        }
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let question = Question {
            source: AskTarget {
                name: self.source.name.to_string(),
                label: label(self.source.name.as_str()),
            },
            service: self.service.service().to_owned(),
            argument: shown(self.service.argument()),
            targets: targets
                .iter()
                .map(|target| AskTarget {
                    name: target.to_string(),
                    label: match target {
                        Destination::Disposable { .. } => DISPOSABLE_LABEL.to_owned(),
                        Destination::Vm(name) => label(name),
                        Destination::Admin => String::new(),
                    },
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
            let notify = error != crate::ask::AskError::TooMany;
            refusal(Outcome::Deny, error.to_string(), notify)
        })?;
        if !answer.allowed {
            let reason = "the person said no".to_owned();
            return Err(refusal(Outcome::AskDenied, reason, false));
        }
        let chosen = targets
            .into_iter()
            .find(|target| target.to_string() == answer.target);
        chosen.ok_or_else(|| {
            let reason = "the answer names a target that was no choice".to_owned();
            refusal(Outcome::Deny, reason, true)
        })
    }

    /// While the person thought, rules and VMs may have changed: the choice must still be one, of the same VM.
    async fn judge_again(&self, chosen: Destination, before: &Facts) -> Result<Granted, Refusal> {
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
        match granted {
            Some((user, autostart)) => Ok(Granted {
                target: chosen,
                user,
                autostart,
                outcome: Outcome::AskAllowed,
                rule,
                notify,
            }),
            None => Err(Refusal {
                outcome: Outcome::Deny,
                rule,
                reason: "the policy or the target changed while the person was asked".to_owned(),
                notify: true,
            }),
        }
    }

    /// Sees to it that the target runs, joins the two ends, and waits for the end.
    async fn carry_out(
        &self,
        granted: Granted,
        caller: &Caller,
        slots: Slots,
    ) -> Result<(), Refusal> {
        let peers = &self.broker.peers;
        let refusal = |reason: String| Refusal {
            rule: granted.rule.clone(),
            ..Refusal::failed(&reason)
        };
        let (target, disposable) = match &granted.target {
            Destination::Admin => {
                return Err(refusal("the admin domain offers no services".to_owned()));
            }
            Destination::Vm(name) => {
                if granted.autostart {
                    let started = peers.start(name).await;
                    started.map_err(|error| refusal(error.to_string()))?;
                }
                let name = name.parse::<VmName>();
                (name.map_err(|error| refusal(error.to_string()))?, false)
            }
            Destination::Disposable { template } => {
                let made = peers.create_disposable(&self.source.name, template).await;
                (made.map_err(|error| refusal(error.to_string()))?, true)
            }
        };
        let joined = self.join(&target, granted.user.as_deref(), caller).await;
        let result = match joined {
            Ok((service, client)) => {
                let Slots { pending, call } = slots;
                drop(pending);
                let name = target.to_string();
                let reason = match granted.outcome {
                    Outcome::AskAllowed => "the person said yes",
                    _ => "a rule allows the call",
                };
                self.record(granted.outcome, &granted.rule, name.clone(), reason);
                if granted.notify {
                    let service = shown(self.service.full());
                    self.tell(
                        "info",
                        format!("{} uses {service} of {name}", self.source.name),
                    )
                    .await;
                }
                both_ended(service, client).await;
                drop(call);
                Ok(())
            }
            Err(reason) => Err(refusal(reason)),
        };
        if disposable && let Err(error) = peers.destroy_disposable(&target).await {
            // It may have powered itself off.
            tracing::debug!(vm = %target, %error, "the disposable of a call was not destroyed");
        }
        result
    }

    async fn join(
        &self,
        target: &VmName,
        user: Option<&str>,
        caller: &Caller,
    ) -> Result<(Leg, Leg), String> {
        let vm = self
            .broker
            .vm(target)
            .ok_or_else(|| format!("'{target}' is not running"))?;
        let ready = timeout(AGENT, vm.wait_agent()).await;
        ready
            .map_err(|_| format!("the agent of '{target}' does not answer"))?
            .map_err(|error| error.to_string())?;
        let execute = Execute {
            user: user.unwrap_or(DEFAULT_USER).to_owned(),
            nogui: false,
            work: Work::Service {
                call: self.service.full().to_owned(),
                source: self.source.name.to_string(),
                target: None,
            },
        };
        let command = execute.command_line().map_err(|error| error.to_string())?;
        if vm.meets != self.source.meets {
            return Err("the two VMs are reached by different transports".to_owned());
        }
        let ends = vm.ends(Host::StaysOut).map_err(|error| error.to_string())?;
        let service = vm
            .serve(self.source.id.0, command, Streams::Connected, ends.1)
            .await
            .map_err(|error| error.to_string())?;
        let client_end = ends.0.map_or(
            CallEnd::Socket {
                port: Some(service.port),
                host: Host::StaysOut,
            },
            CallEnd::Stream,
        );
        let connected = self
            .source
            .connect(caller.clone(), vm.id.0, client_end)
            .await;
        match connected {
            Ok(client) => Ok((service, client)),
            Err(error) => {
                vm.abandon(service).await;
                Err(error.to_string())
            }
        }
    }

    async fn refused(&self, refusal: Refusal) {
        let Refusal {
            outcome,
            rule,
            reason,
            notify,
        } = refusal;
        self.record(outcome, &rule, String::new(), &reason);
        if notify {
            let kind = match outcome {
                Outcome::Failed => "failed",
                _ => "denied",
            };
            let target = match self.requested.as_str() {
                "" => "no VM in particular",
                target => target,
            };
            let service = shown(self.service.full());
            let rule = match rule.as_str() {
                "" => String::new(),
                rule => format!(" ({rule})"),
            };
            let text = format!(
                "{} asked {target} for {service}: {reason}{rule}",
                self.source.name
            );
            self.tell(kind, text).await;
        }
    }

    async fn tell(&self, kind: &str, text: String) {
        if self.source.attention.may_tell(Instant::now()) {
            self.broker.peers.notify(kind, text).await;
        }
    }

    fn record(&self, outcome: Outcome, rule: &str, target: String, reason: &str) {
        self.broker.audit.record(Entry {
            source: self.source.name.to_string(),
            requested: self.requested.to_string(),
            target,
            service: self.service.full().to_owned(),
            outcome,
            rule: rule.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

/// A call is over with its service; its caller gets a moment to read what was said last.
async fn both_ended(mut service: Leg, mut client: Leg) {
    service.ended().await;
    let _ = timeout(LAST_WORDS, client.ended()).await;
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
