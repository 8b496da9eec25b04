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
    time::Duration,
};

use casemate_policy::Standing;
use casemate_qrexec_wire::CommandLine;
use casemate_vm::{VmId, VmName};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use crate::{
    audit::{Audit, Entry, Outcome},
    peers::Peers,
    policies::Policies,
    session::{Carrier, Host, SessionError, Streams, Vm},
};

/// The domain number of the admin side in frames.
pub(crate) const ADMIN_DOMAIN: u32 = 0;

/// The name of the admin domain as callers of the reference know it.
pub(crate) const ADMIN_NAME: &str = "dom0";

/// How long a VM that runs may take until its agent is there: it may be between two control streams.
pub(crate) const AGENT: Duration = Duration::from_secs(10);

/// The broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) peers: Peers,
    pub(crate) audit: Audit,
    policies: Arc<Policies>,
    vms: Mutex<HashMap<VmName, Vm>>,
    /// Calls of the admin side that run; each channel closes with its call.
    calls: Mutex<HashMap<u64, watch::Receiver<()>>>,
    next: AtomicU64,
    /// The faults of the policy that the person was told last.
    told: Mutex<Vec<String>>,
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
    pub(crate) fn new(peers: Peers, policy: Vec<PathBuf>, audit: Audit) -> Arc<Self> {
        Arc::new(Self {
            peers,
            audit,
            policies: Arc::new(Policies::new(policy)),
            vms: Mutex::default(),
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            told: Mutex::default(),
        })
    }

    /// Starts the session of a VM. One of the same name is ended: the supervisor knows which one runs.
    pub(crate) async fn attach(self: &Arc<Self>, name: VmName, id: VmId, carrier: Carrier) {
        let vm = Vm::start(self, name.clone(), id, self.number(), carrier);
        let old = lock(&self.vms).insert(name, vm);
        if let Some(old) = old {
            old.detach().await;
        }
    }

    /// Ends the session of a VM. Says whether there was one.
    pub(crate) async fn detach(&self, name: &VmName) -> bool {
        let vm = lock(&self.vms).remove(name);
        match vm {
            Some(vm) => {
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
        let (is_news, was_faulty) = {
            let mut told = lock(&self.told);
            let was_faulty = !told.is_empty();
            let is_news = *told != current.faults();
            current.faults().clone_into(&mut told);
            (is_news, was_faulty)
        };
        if is_news {
            self.tell_of_policy(&current, was_faulty).await;
        }
        current
    }

    async fn tell_of_policy(&self, policy: &Standing, was_faulty: bool) {
        let Some(first) = policy.faults().first() else {
            if was_faulty {
                tracing::info!("the policy is without fault again");
            }
            return;
        };
        let what = match policy.good() {
            Some(_) => {
                "The policy has an error. The last good one holds, less what the new one denies"
            }
            None => "Every call is denied until the policy is put right",
        };
        for fault in policy.faults() {
            tracing::error!(%fault, "{what}");
        }
        let more = match policy.faults().len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let text = format!("{what}: {first}{more}");
        self.peers.notify("failed", text).await;
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
        self.record_admin(&vm.name, &command);
        let (ours, theirs) = vm.ends(Host::Listens)?;
        let served = vm.serve(ADMIN_DOMAIN, command, Streams::Connected, theirs);
        let mut leg = served.await.map_err(failed)?;
        let ours = match (ours, leg.listening.take()) {
            (Some(ours), _) => ours,
            (None, Some(listening)) => listening.accept().await?,
            (None, None) => return Err(failed(SessionError::Gone)),
        };
        let call = self.number();
        let (running, ends) = watch::channel(());
        lock(&self.calls).insert(call, ends);
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            leg.ended().await;
            lock(&broker.calls).remove(&call);
            drop(running);
        });
        Ok((call, ours))
    }

    /// Puts a call of the admin side on record, which no rule judges.
    pub(crate) fn record_admin(&self, target: &VmName, command: &CommandLine) {
        let printable = |byte: &u8| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '_',
        };
        let text: String = command.as_bytes().iter().map(printable).collect();
        let (_, work) = text.split_once(':').unwrap_or_default();
        let service = work
            .strip_prefix("QUBESRPC ")
            .and_then(|rest| rest.split(' ').next());
        self.audit.record(Entry {
            source: ADMIN_NAME.to_owned(),
            requested: target.to_string(),
            target: target.to_string(),
            service: service.unwrap_or(work).to_owned(),
            outcome: Outcome::Allow,
            rule: String::new(),
            reason: "the admin domain may".to_owned(),
        });
    }

    /// Returns when a call of the admin side has ended; at once for one that is not known.
    pub(crate) async fn wait_call(&self, call: u64) {
        let ends = lock(&self.calls).get(&call).cloned();
        if let Some(mut ends) = ends {
            // Nothing is ever sent: the sender is dropped with the call.
            let _ = ends.changed().await;
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
