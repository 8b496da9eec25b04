//! Remote VMs: machines elsewhere, each behind a VM that carries calls to it and speaks for it.

use crate::{
    decision::{Decision, Denial, Destination, Request},
    evaluate::{denied, requested},
    facts::{Domain, Facts},
    policy::Policy,
    token::Wish,
};

/// The type of a remote VM.
const REMOTE: &str = "RemoteVM";

/// Whom a call to a remote VM goes to in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The relay.
    pub target: String,
    /// What is called there: the transport, with the remote VM and the call itself as its argument.
    pub service: String,
}

impl Policy {
    /// Judges a call of a VM that says that it speaks for `remote`. It must be the relay of it, and is then judged as if
    /// it were `remote`.
    pub fn decide_relayed(&self, request: &Request<'_>, remote: &str, facts: &Facts) -> Decision {
        if let Err(denial) = requested(request, facts) {
            return denied(denial);
        }
        match facts.spoken_for(request.source, remote) {
            Some(source) => self.decide(&Request { source, ..*request }, facts),
            None => denied(Denial::NotARelay),
        }
    }
}

impl Facts {
    /// Whether a call that may go to `target` needs a relay.
    #[must_use]
    pub fn is_remote(&self, target: &Destination) -> bool {
        matches!(target, Destination::Vm(name) if self.remote(name).is_some())
    }

    /// The VM that carries calls to a remote VM.
    #[must_use]
    pub fn relay_of(&self, remote: &str) -> Option<&str> {
        let (_, remote) = self.remote(remote)?;
        self.named(remote.relayvm.as_ref()?)
    }

    /// Where a call that may go to `target` is taken instead; `None` when it needs no relay or has none.
    #[must_use]
    pub fn via(&self, target: &Destination, request: &Request<'_>) -> Option<Via> {
        let Destination::Vm(name) = target else {
            return None;
        };
        let (_, remote) = self.remote(name)?;
        let transport = remote.transport_rpc.as_ref()?;
        Some(Via {
            target: self.relay_of(name)?.to_owned(),
            service: format!("{transport}+{name}+{}{}", request.service, request.argument),
        })
    }

    /// The name of a remote VM, called by its name or UUID, if `relay` is the VM that speaks for it.
    #[must_use]
    pub fn spoken_for<'f>(&'f self, relay: &str, remote: &str) -> Option<&'f str> {
        let (name, _) = self.remote(remote)?;
        (self.named(relay)? == self.relay_of(name)?).then_some(name)
    }

    fn remote<'f>(&'f self, name: &str) -> Option<(&'f str, &'f Domain)> {
        let name = self.named(name)?;
        let domain = self.domain(name)?;
        (domain.kind == REMOTE).then_some((name, domain))
    }

    /// The name of a VM that is called by its name or UUID.
    fn named<'f>(&'f self, name: &str) -> Option<&'f str> {
        match Wish::requested(name).ok()? {
            Wish::Vm(vm) => self.find(&vm),
            _ => None,
        }
    }
}
