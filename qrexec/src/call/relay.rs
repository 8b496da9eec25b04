//! Remote VMs: a call of one comes from its relay, which says so, and a call to one goes to its relay.

use casemate_policy::{Facts, Request};
use casemate_qrexec_wire::{ServiceCall, Trigger};
use casemate_vm::VmName;

use super::{Call, Destination};
use crate::{broker::Broker, session::Vm};

/// The call that a relay gets in place of the remote VM.
pub(crate) struct Relayed {
    pub(crate) relay: VmName,
    /// Its transport, with the remote VM and the call itself as argument.
    pub(crate) service: ServiceCall,
}

/// The remote VM that a caller says it speaks for, if it is its relay; `None` when it calls for itself.
///
/// Who calls is known from the link. One that calls for another must not be judged as if it called for itself, because
/// the other would get its rights, and not as the other unless the facts say that it may speak for it.
pub(super) async fn claimed(
    broker: &Broker,
    source: &Vm,
    trigger: &Trigger,
) -> Result<Option<VmName>, String> {
    let claimed = trigger.claimed_source.as_str();
    if claimed.is_empty() || claimed == source.name.as_str() {
        return Ok(None);
    }
    let facts = broker.peers.facts().await;
    let facts = facts.map_err(|error| error.to_string())?;
    spoken_for(&facts, source.name.as_str(), claimed).map(Some)
}

/// The remote VM of this name or UUID, if `relay` speaks for it.
///
/// # Errors
/// Why not, for the admin side.
pub(crate) fn spoken_for(facts: &Facts, relay: &str, claimed: &str) -> Result<VmName, String> {
    let remote = facts
        .spoken_for(relay, claimed)
        .ok_or_else(|| format!("the caller speaks for '{claimed}', and is not the relay of it"))?;
    // It becomes a word of the command that the target gets.
    let name = remote.parse();
    name.map_err(|error| format!("the caller speaks for a VM of no valid name: {error}"))
}

/// Where a call to `target` is brought, when that is a remote VM.
///
/// # Errors
/// When it cannot be brought there, and why.
pub(crate) fn relayed(
    facts: &Facts,
    target: &Destination,
    request: &Request<'_>,
) -> Result<Option<Relayed>, String> {
    if !facts.is_remote(target) {
        return Ok(None);
    }
    let via = facts
        .via(target, request)
        .ok_or_else(|| format!("'{target}' is a remote VM without a relay or a transport"))?;
    let relay = via.target.parse();
    let relay = relay.map_err(|error| format!("the relay of '{target}': {error}"))?;
    let service = via.service.parse();
    let service = service.map_err(|error| format!("the call for '{target}': {error}"))?;
    Ok(Some(Relayed { relay, service }))
}

impl Call {
    /// Whether the source still may speak for whom it said.
    pub(super) fn may_speak(&self, facts: &Facts) -> Result<(), String> {
        let Some(remote) = &self.remote else {
            return Ok(());
        };
        spoken_for(facts, self.source.name.as_str(), remote.as_str()).map(drop)
    }
}
