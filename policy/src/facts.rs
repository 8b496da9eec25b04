//! What the evaluator may know about VMs, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::token::VmRef;

/// One VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Written")]
pub struct Domain {
    /// The word behind `@type:`, such as `AppVM` or `DispVM`.
    pub kind: String,
    /// The words behind `@tag:`.
    pub tags: BTreeSet<String>,
    /// The template of the disposables that this VM opens when it asks for `@dispvm`.
    pub default_dispvm: Option<String>,
    /// Whether disposables may be made from this VM.
    pub template_for_dispvms: bool,
    /// Whether it runs now.
    pub running: bool,
    /// Its identity beside its name.
    pub uuid: Option<String>,
    /// Not to be offered to a person.
    pub internal: bool,
    /// For a remote VM: the VM that carries calls to it, and speaks for it.
    pub relayvm: Option<String>,
    /// For a remote VM: the service of its relay that carries calls on.
    pub transport_rpc: Option<String>,
}

/// Every VM by name. The admin domain needs no entry; one of its name is ignored.
///
/// Written as JSON it is `{"domains":{NAME:{"type","tags","default_dispvm","template_for_dispvms","power_state","uuid",
/// "internal","relayvm","transport_rpc"}}}`; all but `type` and `power_state` may be left out, further keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Facts {
    /// The VMs.
    pub domains: BTreeMap<String, Domain>,
}

/// A VM as it is written: the power state is a word.
#[derive(Deserialize)]
struct Written {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    tags: BTreeSet<String>,
    default_dispvm: Option<String>,
    #[serde(default)]
    template_for_dispvms: bool,
    power_state: String,
    uuid: Option<String>,
    #[serde(default)]
    internal: bool,
    relayvm: Option<String>,
    transport_rpc: Option<String>,
}

impl From<Written> for Domain {
    fn from(written: Written) -> Self {
        Self {
            kind: written.kind,
            tags: written.tags,
            default_dispvm: written.default_dispvm,
            template_for_dispvms: written.template_for_dispvms,
            running: written.power_state == "Running",
            uuid: written.uuid,
            internal: written.internal,
            relayvm: written.relayvm,
            transport_rpc: written.transport_rpc,
        }
    }
}

impl Facts {
    /// The VM that a policy file or a caller means, by its name.
    pub(crate) fn find(&self, vm: &VmRef) -> Option<&str> {
        match vm {
            VmRef::Name(name) => self.domains.get_key_value(name).map(|(name, _)| name),
            VmRef::Uuid(uuid) => self
                .domains
                .iter()
                .find_map(|(name, domain)| (domain.uuid.as_ref() == Some(uuid)).then_some(name)),
        }
        .map(String::as_str)
        .filter(|name| *name != VmRef::ADMIN_NAME)
    }

    /// The VM of a name, not the admin domain.
    pub(crate) fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name).filter(|_| name != VmRef::ADMIN_NAME)
    }

    /// Every VM but the admin domain.
    pub(crate) fn vms(&self) -> impl Iterator<Item = (&str, &Domain)> {
        self.domains
            .iter()
            .map(|(name, domain)| (name.as_str(), domain))
            .filter(|(name, _)| *name != VmRef::ADMIN_NAME)
    }

    /// The template of a disposable that `source` gets for `@dispvm`.
    pub(crate) fn default_dispvm(&self, source: &str) -> Option<&str> {
        let default = self.domains.get(source)?.default_dispvm.as_ref()?;
        self.domains
            .get_key_value(default)
            .map(|(name, _)| name.as_str())
            .filter(|name| *name != VmRef::ADMIN_NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_and_nonsense_is_refused() {
        let parse = serde_json::from_str::<Facts>;
        let facts = parse(
            r#"{"domains":{"work":{"type":"AppVM","tags":["t"],"default_dispvm":"d",
            "template_for_dispvms":false,"power_state":"Running","uuid":"u","internal":false,"new":1},
            "d":{"type":"TemplateVM","power_state":"Halted","template_for_dispvms":true}}}"#,
        )
        .unwrap();
        assert!(facts.domains["work"].running);
        assert!(facts.domains["work"].tags.contains("t"));
        assert!(facts.domains["d"].template_for_dispvms && !facts.domains["d"].running);
        assert!(parse("{}").is_err());
        assert!(parse(r#"{"domains":{"work":{}}}"#).is_err());
    }
}
