//! What the evaluator may know about VMs, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use crate::token::VmRef;

/// One VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
}

/// Every VM by name. The admin domain needs no entry; one of its name is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The VMs.
    pub domains: BTreeMap<String, Domain>,
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
    }
}
