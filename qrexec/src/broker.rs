//! What the whole broker shares: the attached VMs, the calls of the admin side, policy, audit and peers.
//!
//! Each lock here is held for one look-up or one insertion, never across a wait.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use casemate_policy::{Request, Standing, Verdict};
pub(crate) use casemate_qrexec_session::ADMIN_DOMAIN;
use casemate_qrexec_wire::{CommandLine, ServiceCall};
use casemate_vm::{VmId, VmName};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    ask::Attention,
    audit::{Audit, Entry, Outcome, shown},
    grants::{Chosen, Grant, Grants, Instance, Key, Moment},
    live::{Call, Calls, Ticket},
    peers::Peers,
    policies::{self, Policies},
    session::{Carrier, Host, SessionError, Streams, Vm},
};

/// The name of the admin domain as callers of the reference know it.
pub(crate) const ADMIN_NAME: &str = "dom0";

/// How long a VM that runs may take until its agent is there: it may be between two control streams.
pub(crate) const AGENT: Duration = Duration::from_secs(10);

/// How long the ends of a call that was killed may take to report; after that it is forgotten all the same.
pub(crate) const LAST_BREATH: Duration = Duration::from_secs(10);

/// What the person was told last of the policy's faults.
#[derive(Debug, Default)]
struct Told {
    faults: Vec<String>,
    /// Whether that came through, or is about to: nobody may be there to show it when the broker starts.
    through: bool,
}

/// The broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) peers: Peers,
    pub(crate) audit: Audit,
    /// What those may ask of the person that no session belongs to.
    pub(crate) others: Arc<Attention>,
    pub(crate) policies: Arc<Policies>,
    vms: Mutex<HashMap<VmName, Vm>>,
    /// Every call that has not ended.
    pub(crate) calls: Arc<Calls>,
    grants: Mutex<Grants>,
    next: AtomicU64,
    told: Mutex<Told>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a call of the admin side could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminCallError {
    /// No such VM.
    #[error("'{0}' is not running")]
    NotAttached(VmName),
    /// Its session refused.
    #[error("'{name}' cannot be called: {source}")]
    Session {
        /// The VM.
        name: VmName,
        /// Why.
        source: SessionError,
    },
    /// Its agent is not there.
    #[error("the agent of '{0}' did not answer within {seconds} seconds", seconds = AGENT.as_secs())]
    NoAgent(VmName),
    /// No descriptors.
    #[error("no socket pair")]
    Io(#[from] std::io::Error),
}

impl Broker {
    /// Also begins to follow the changes of the policy; must be called in a runtime.
    pub(crate) fn new(peers: Peers, policy: Vec<PathBuf>, audit: Audit) -> Arc<Self> {
        let broker = Arc::new(Self {
            peers,
            audit,
            others: Arc::new(Attention::new(Instant::now())),
            policies: Arc::new(Policies::new(policy)),
            vms: Mutex::default(),
            calls: Arc::default(),
            grants: Mutex::default(),
            next: AtomicU64::new(1),
            told: Mutex::default(),
        });
        policies::follow(&broker);
        broker
    }

    /// Starts the session of a VM. One of the same name is ended: the supervisor knows which one runs.
    pub(crate) async fn attach(self: &Arc<Self>, name: VmName, id: VmId, carrier: Carrier) {
        let old = {
            // Nobody may hear of its agent before it can be called.
            let mut vms = lock(&self.vms);
            let vm = Vm::start(self, name.clone(), id, self.number(), carrier);
            vms.insert(name, vm)
        };
        if let Some(old) = old {
            self.ended(&old);
            old.detach().await;
        }
    }

    /// Ends the session of a VM. Says whether there was one.
    pub(crate) async fn detach(&self, name: &VmName) -> bool {
        let vm = lock(&self.vms).remove(name);
        match vm {
            Some(vm) => {
                self.ended(&vm);
                vm.detach().await;
                true
            }
            None => false,
        }
    }

    /// A session has ended by itself.
    pub(crate) fn forget(&self, vm: &Vm) {
        let mut vms = lock(&self.vms);
        if vms.get(&vm.name).is_some_and(|now| now.number == vm.number) {
            vms.remove(&vm.name);
        }
        drop(vms);
        self.ended(vm);
    }

    /// What was granted to a VM, or to calls of it, ends with it.
    pub(crate) fn ended(&self, vm: &Vm) {
        lock(&self.grants).ended(vm.number);
    }

    /// The session of a VM.
    pub(crate) fn vm(&self, name: &VmName) -> Option<Vm> {
        lock(&self.vms).get(name).cloned()
    }

    /// Names of the attached VMs, sorted.
    pub(crate) fn attached(&self) -> Vec<String> {
        let mut names: Vec<String> = lock(&self.vms).keys().map(VmName::to_string).collect();
        names.sort_unstable();
        names
    }

    /// The grant that answers the question about a call.
    pub(crate) fn grant(&self, key: &Key) -> Option<Grant> {
        lock(&self.grants).find(key, Moment::now())
    }

    /// The person allows such calls for a while; returns the grant's number. Both VMs of it must run still.
    pub(crate) fn allow_for_a_while(&self, key: Key, chosen: Chosen) -> Option<u64> {
        let id = self.number();
        let mut instances = vec![key.source.clone()];
        if let Chosen::Vm(target) = &chosen {
            instances.push(target.clone());
        }
        lock(&self.grants).add(id, key, chosen, Moment::now());
        // A VM is taken off the list before its grants are dropped: whichever of the two comes later sees the other.
        let gone = instances.iter().find(|instance| !self.is_current(instance));
        match gone {
            Some(gone) => {
                lock(&self.grants).ended(gone.number);
                None
            }
            None => Some(id),
        }
    }

    /// Whether the VM is still the one that it was.
    pub(crate) fn is_current(&self, instance: &Instance) -> bool {
        let name = instance.name.parse::<VmName>().ok();
        let vm = name.and_then(|name| self.vm(&name));
        vm.is_some_and(|vm| vm.number == instance.number)
    }

    /// Whether there is any grant, of whomever.
    pub(crate) fn has_grants(&self) -> bool {
        !lock(&self.grants).is_empty()
    }

    /// Policy does not ask about such calls any more.
    pub(crate) fn forget_grant(&self, key: &Key) {
        lock(&self.grants).forget(key);
    }

    /// Takes a grant back. Says whether there was one.
    pub(crate) fn revoke(&self, id: u64) -> bool {
        lock(&self.grants).revoke(id, Moment::now())
    }

    /// Takes all grants back. Says how many there were.
    pub(crate) fn revoke_all(&self) -> usize {
        lock(&self.grants).revoke_all(Moment::now())
    }

    /// The grants that hold, each with the time that is left. One that policy has no question for any more is dropped.
    pub(crate) async fn grants(&self) -> Vec<(Grant, Duration)> {
        let policy = self.policy().await;
        let facts = self.peers.facts().await.ok();
        let asks = |grant: &Grant| {
            let Ok(call) = ServiceCall::sanitise(grant.key.service.as_bytes()) else {
                return false;
            };
            let request = Request {
                source: grant.key.judged(),
                target: &grant.key.requested,
                service: call.service(),
                argument: call.argument(),
            };
            // Without facts nothing is judged, so nothing goes on by a grant either.
            facts.as_ref().is_none_or(|facts| {
                let verdict = policy.decide(&request, facts).verdict;
                matches!(verdict, Verdict::Ask { targets, .. } if targets.contains(&grant.chosen.destination()))
            })
        };
        let all = lock(&self.grants).list(Moment::now());
        let (hold, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(asks);
        for grant in gone {
            self.forget_grant(&grant.key);
        }
        let now = Moment::now();
        let left = |grant: Grant| {
            let left = grant.until.left(now);
            (grant, left)
        };
        hold.into_iter().map(left).collect()
    }

    /// The policy as it is on disk now; tells the person about faults, once, and when they are mended.
    pub(crate) async fn policy(&self) -> Arc<Standing> {
        let current = match self.policies.if_unchanged() {
            // A few looks at files that are in the cache take less time than another thread's turn.
            Some(current) => current,
            None => {
                let policies = Arc::clone(&self.policies);
                spawn_blocking(move || policies.current())
                    .await
                    .unwrap_or_else(|error| Arc::new(Standing::faulty(error.to_string())))
            }
        };
        let (is_news, was_through) = {
            let mut told = lock(&self.told);
            let is_news = told.faults != current.faults();
            if is_news {
                current.faults().clone_into(&mut told.faults);
            }
            (is_news, std::mem::replace(&mut told.through, true))
        };
        if (is_news || !was_through) && !self.tell_of_policy(&current, is_news).await {
            lock(&self.told).through = false;
        }
        current
    }

    /// Says whether nobody has to be told any more.
    async fn tell_of_policy(&self, policy: &Standing, is_news: bool) -> bool {
        let Some(first) = policy.faults().first() else {
            if is_news {
                tracing::info!("the policy is without fault again");
            }
            return true;
        };
        let what = match policy.good() {
            Some(_) => {
                "The policy has an error. The last good one holds, less what the new one denies"
            }
            None => "Every call is denied until the policy is put right",
        };
        for fault in policy.faults().iter().filter(|_| is_news) {
            tracing::error!(%fault, "{what}");
        }
        let more = match policy.faults().len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let text = format!("{what}: {first}{more}");
        self.peers.notify("failed", text).await
    }

    /// Runs a command in a VM for the admin side; returns the call's number and the client end of its data stream.
    pub(crate) async fn admin_call(
        self: &Arc<Self>,
        name: VmName,
        command: CommandLine,
    ) -> Result<(u64, OwnedFd), AdminCallError> {
        let Some(vm) = self.vm(&name) else {
            return Err(AdminCallError::NotAttached(name));
        };
        let failed = |source| AdminCallError::Session {
            name: vm.name.clone(),
            source,
        };
        timeout(AGENT, vm.wait_agent())
            .await
            .map_err(|_| AdminCallError::NoAgent(name))?
            .map_err(failed)?;
        let service = service_of(&command);
        let ticket = self.admin_ticket(&vm.name, &service);
        let (ours, theirs) = vm.ends(Host::Listens)?;
        let served = vm.serve(ADMIN_DOMAIN, command, Streams::Connected, theirs);
        let mut leg = served.await.map_err(failed)?;
        let ours = match (ours, leg.listening.take()) {
            (Some(ours), _) => ours,
            (None, Some(listening)) => listening.accept().await?,
            (None, None) => return Err(failed(SessionError::Gone)),
        };
        let call = ticket.id();
        ticket.runs(vm.name.as_str(), !vm.meets);
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            let killed = tokio::select! {
                () = leg.ended() => None,
                by = ticket.killed() => Some(by),
            };
            if let Some(by) = killed {
                vm.cut(&leg).await;
                broker.record_killed_admin(&vm.name, &service, &by);
                let _ = timeout(LAST_BREATH, leg.ended()).await;
            }
        });
        Ok((call, ours))
    }

    /// Takes a call of the admin side in and puts it on record; no rule judges it.
    pub(crate) fn admin_ticket(&self, target: &VmName, service: &str) -> Ticket {
        self.record_admin(
            target,
            service,
            Outcome::Allow,
            "the admin domain may".to_owned(),
        );
        let call = Call {
            source: ADMIN_NAME.to_owned(),
            requested: target.to_string(),
            service: shown(service),
        };
        let ticket = self.calls.enter(self.number(), call);
        ticket.starts(target.as_str(), "");
        ticket
    }

    /// Puts on record that somebody killed a call of the admin side.
    pub(crate) fn record_killed_admin(&self, target: &VmName, service: &str, by: &str) {
        self.record_admin(target, service, Outcome::Killed, format!("killed by {by}"));
    }

    fn record_admin(&self, target: &VmName, service: &str, outcome: Outcome, reason: String) {
        self.audit.record(Entry {
            source: ADMIN_NAME.to_owned(),
            requested: target.to_string(),
            target: target.to_string(),
            service: service.to_owned(),
            outcome,
            rule: String::new(),
            reason,
        });
    }

    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// The service of a command line, or the command itself; printable.
pub(crate) fn service_of(command: &CommandLine) -> String {
    let printable = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '_',
    };
    let text: String = command.as_bytes().iter().map(printable).collect();
    let (_, work) = text.split_once(':').unwrap_or_default();
    let service = work
        .strip_prefix("QUBESRPC ")
        .and_then(|rest| rest.split(' ').next());
    service.unwrap_or(work).to_owned()
}
