//! One call of a VM, from its trigger to its end. Runs in a task of its own.

mod admin;
mod carry;
mod decide;
mod part;
pub(crate) mod relay;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use casemate_policy::Destination;
use casemate_qrexec_wire::{ServiceCall, Target, Trigger};
use casemate_vm::VmName;
use tokio::sync::watch;

use crate::{
    audit::{Entry, Outcome, shown},
    broker::Broker,
    live::{self, Ticket},
    session::{Caller, Slots, Vm},
};

/// The user that stands for a VM's default user.
pub(crate) const DEFAULT_USER: &str = "DEFAULT";

/// How long the caller's end of a call may outlast the service's end, so that what the service said last is read.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// A call that may go on.
struct Granted {
    target: Destination,
    /// Whom it is brought to, when the target is a remote VM.
    via: Option<relay::Relayed>,
    user: Option<String>,
    autostart: bool,
    outcome: Outcome,
    rule: String,
    notify: bool,
    /// The only instance of the target that will do; any when it is `None`.
    instance: Option<u64>,
    /// Whether calls like this one are allowed for a while from now on.
    for_a_while: bool,
    /// Identity of a chosen disposable's template.
    template_uuid: Option<String>,
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

    fn killed(rule: &str, by: &str) -> Self {
        Self {
            outcome: Outcome::Killed,
            rule: rule.to_owned(),
            reason: format!("killed by {by}"),
            notify: false,
        }
    }
}

struct Call {
    broker: Arc<Broker>,
    source: Vm,
    /// The remote VM that the source speaks for, as its relay; then that one is judged.
    remote: Option<VmName>,
    requested: Target,
    service: ServiceCall,
    ticket: Ticket,
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
    let admitted = match ServiceCall::sanitise(&trigger.service) {
        Ok(service) => match relay::claimed(&broker, &source, &trigger).await {
            Ok(remote) => Ok((service, remote)),
            Err(reason) => Err((service.full().to_owned(), reason)),
        },
        Err(invalid) => Err((String::new(), invalid.to_string())),
    };
    let (service, remote) = match admitted {
        Ok(admitted) => admitted,
        Err((service, reason)) => {
            source.refuse(caller).await;
            broker.audit.record(Entry {
                source: source.name.to_string(),
                requested: trigger.target.to_string(),
                target: String::new(),
                service,
                outcome: Outcome::Deny,
                rule: String::new(),
                reason,
            });
            return;
        }
    };
    let about = live::Call {
        source: remote.as_ref().unwrap_or(&source.name).to_string(),
        requested: trigger.target.to_string(),
        service: shown(service.full()),
    };
    let ticket = broker.calls.enter(broker.number(), about);
    let call = Call {
        broker,
        source,
        remote,
        requested: trigger.target,
        service,
        ticket,
    };
    let decided = tokio::select! {
        decided = call.decide() => decided,
        _ = alive.changed() => {
            call.record(Outcome::Failed, "", String::new(), "the caller ended before there was an answer");
            return;
        }
        by = call.ticket.killed() => Err(Refusal::killed("", &by)),
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
    /// Who is judged.
    fn judged(&self) -> &VmName {
        self.remote.as_ref().unwrap_or(&self.source.name)
    }

    /// Who calls, in words.
    fn who(&self) -> String {
        match &self.remote {
            Some(remote) => format!("{remote} (by {})", self.source.name),
            None => self.source.name.to_string(),
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
                self.who()
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
        let reason = match &self.remote {
            Some(_) => format!("{reason}; '{}' speaks for it", self.source.name),
            None => reason.to_owned(),
        };
        self.broker.audit.record(Entry {
            source: self.judged().to_string(),
            requested: self.requested.to_string(),
            target,
            service: self.service.full().to_owned(),
            outcome,
            rule: rule.to_owned(),
            reason,
        });
    }
}
