//! A call that may go on: its target is made or started, the two ends are joined, and their end is awaited.

use casemate_policy::Destination;
use casemate_qrexec_wire::{Execute, Work};
use casemate_vm::VmName;
use tokio::time::timeout;

use super::{Call, DEFAULT_USER, Granted, LAST_WORDS, Refusal, part::part};
use crate::{
    audit::{Outcome, shown},
    broker::{AGENT, LAST_BREATH},
    grants::Chosen,
    session::{CallEnd, Caller, Host, Leg, Slots, Streams, Vm},
};

/// Where a call goes.
struct Reached {
    name: VmName,
    /// Made for this call, and to go with it.
    disposable: bool,
}

impl Call {
    /// Sees to it that the target runs, joins the two ends, and waits for the end.
    pub(super) async fn carry_out(
        &self,
        granted: Granted,
        caller: &Caller,
        slots: Slots,
    ) -> Result<(), Refusal> {
        let Granted { target, rule, .. } = &granted;
        self.ticket.starts(&target.to_string(), rule);
        if matches!(target, Destination::Admin) {
            return self.serve_at_host(&granted, caller, slots).await;
        }
        let reached = self.reach(&granted);
        tokio::pin!(reached);
        let killed = tokio::select! {
            made = &mut reached => Ok(made?),
            by = self.ticket.killed() => Err(by),
        };
        let (reached, result) = match killed {
            Ok(reached) => {
                let served = self.serve(&granted, &reached.name, caller, slots).await;
                (reached, served)
            }
            Err(by) => {
                // The caller need not wait, but what was begun must be known before it can be undone.
                let refusal = Refusal::killed(rule, &by);
                self.source.refuse(caller.clone()).await;
                self.refused(refusal).await;
                match reached.await {
                    Ok(reached) => (reached, Ok(())),
                    Err(_) => return Ok(()),
                }
            }
        };
        if reached.disposable {
            let destroyed = self.broker.peers.destroy_disposable(&reached.name).await;
            if let Err(error) = destroyed {
                // It may have powered itself off.
                tracing::debug!(vm = %reached.name, %error, "the disposable of a call was not destroyed");
            }
        }
        result
    }

    /// Starts or makes the target where that is needed.
    async fn reach(&self, granted: &Granted) -> Result<Reached, Refusal> {
        let peers = &self.broker.peers;
        let refusal = |reason: &dyn ToString| Refusal {
            rule: granted.rule.clone(),
            ..Refusal::failed(&reason.to_string())
        };
        match &granted.target {
            Destination::Admin => Err(refusal(&"the admin domain offers no services")),
            Destination::Vm(name) => {
                let relay = granted.via.as_ref().map(|via| via.relay.as_str());
                let name = relay.unwrap_or(name);
                if granted.autostart {
                    let started = peers.start(name).await;
                    started.map_err(|error| refusal(&error))?;
                }
                let name = name.parse::<VmName>();
                Ok(Reached {
                    name: name.map_err(|error| refusal(&error))?,
                    disposable: false,
                })
            }
            Destination::Disposable { template } => {
                let made = peers.create_disposable(&self.source.name, template).await;
                Ok(Reached {
                    name: made.map_err(|error| refusal(&error))?,
                    disposable: true,
                })
            }
        }
    }

    /// Joins the two ends and waits for their end.
    async fn serve(
        &self,
        granted: &Granted,
        target: &VmName,
        caller: &Caller,
        slots: Slots,
    ) -> Result<(), Refusal> {
        let refusal = |reason: String| Refusal {
            rule: granted.rule.clone(),
            ..Refusal::failed(&reason)
        };
        let vm = tokio::select! {
            vm = self.agent_of(target) => vm.map_err(refusal)?,
            by = self.ticket.killed() => return Err(Refusal::killed(&granted.rule, &by)),
        };
        if granted.instance.is_some_and(|number| number != vm.number) {
            let reason = "the target is not the VM any more that the person chose".to_owned();
            return Err(refusal(reason));
        }
        if vm.number == self.source.number {
            let reason = "the relay of the target is the caller itself".to_owned();
            return Err(refusal(reason));
        }
        let joined = self.join(&vm, granted, caller).await;
        let (mut service, mut client) = joined.map_err(refusal)?;
        let Slots { pending, call } = slots;
        drop(pending);
        let place = match &granted.via {
            Some(_) => granted.target.to_string(),
            None => target.to_string(),
        };
        self.ticket.runs(&place, true);
        let reason = match granted.outcome {
            Outcome::AskAllowed if granted.for_a_while && granted.via.is_some() => {
                "the person said yes; such calls are asked about again, because the target is remote"
            }
            Outcome::AskAllowed if granted.for_a_while => self.allow_for_a_while(granted, &vm),
            Outcome::AskAllowed => "the person said yes",
            Outcome::Granted => "the person allowed such calls a while ago",
            _ => "a rule allows the call",
        };
        let by = match &granted.via {
            Some(_) => format!("{reason}; '{target}' brings it there"),
            None => reason.to_owned(),
        };
        self.record(granted.outcome, &granted.rule, place.clone(), &by);
        if granted.notify {
            let service = shown(self.service.full());
            let text = format!("{} uses {service} of {place}", self.who());
            self.tell("info", text).await;
        }
        let end = tokio::select! {
            () = both_ended(&mut service, &mut client) => None,
            by = self.ticket.killed() => Some(format!("killed by {by}")),
            // A stream that is joined by a vmm ends with it; at sockets nothing else would end this one.
            () = self.source.gone(), if vm.meets => Some("the caller's VM has ended".to_owned()),
        };
        if let Some(reason) = end {
            self.end(
                &vm,
                (&mut service, &mut client),
                (&granted.rule, place, reason),
            )
            .await;
        }
        drop(call);
        Ok(())
    }

    /// Parts the two ends, whatever is on its way, and waits for their reports.
    async fn end(
        &self,
        vm: &Vm,
        (service, client): (&mut Leg, &mut Leg),
        (rule, place, reason): (&str, String, String),
    ) {
        if vm.meets {
            if let Err(error) = part(vm, service).await {
                tracing::warn!(%place, %error, "a call goes on");
                let who = self.who();
                let text = format!("The call of {who} to {place} could not be ended: {error}");
                self.tell("failed", text).await;
                self.ticket.runs(&place, false);
                return both_ended(service, client).await;
            }
        } else {
            // Either alone would do, were both vmms to be trusted.
            vm.cut(service).await;
            self.source.cut(client).await;
        }
        self.record(Outcome::Killed, rule, place, &reason);
        let _ = timeout(LAST_BREATH, both_ended(service, client)).await;
    }

    /// Remembers what the person chose; says so for the record.
    fn allow_for_a_while(&self, granted: &Granted, vm: &Vm) -> &'static str {
        let chosen = match &granted.target {
            Destination::Disposable { template } => Chosen::Disposable {
                template: template.clone(),
                uuid: granted.template_uuid.clone(),
            },
            _ => Chosen::Vm(vm.instance()),
        };
        match self.broker.allow_for_a_while(self.key(), chosen) {
            Some(grant) => {
                tracing::info!(grant, source = %self.source.name, target = %granted.target, "granted for a while");
                "the person said yes, and to such calls for a while"
            }
            None => "the person said yes; one of the VMs has ended already",
        }
    }

    /// The session of the target, once its agent is there.
    async fn agent_of(&self, target: &VmName) -> Result<Vm, String> {
        let vm = self
            .broker
            .vm(target)
            .ok_or_else(|| format!("'{target}' is not running"))?;
        let ready = timeout(AGENT, vm.wait_agent()).await;
        ready
            .map_err(|_| format!("the agent of '{target}' does not answer"))?
            .map_err(|error| error.to_string())?;
        Ok(vm)
    }

    async fn join(
        &self,
        vm: &Vm,
        granted: &Granted,
        caller: &Caller,
    ) -> Result<(Leg, Leg), String> {
        let service = match &granted.via {
            Some(via) => &via.service,
            None => &self.service,
        };
        let user = granted.user.as_deref().unwrap_or(DEFAULT_USER);
        let execute = Execute {
            user: user.to_owned(),
            nogui: false,
            work: Work::Service {
                call: service.full().to_owned(),
                source: self.judged().to_string(),
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
}

/// A call is over with its service; its caller gets a moment to read what was said last.
async fn both_ended(service: &mut Leg, client: &mut Leg) {
    service.ended().await;
    let _ = timeout(LAST_WORDS, client.ended()).await;
}
