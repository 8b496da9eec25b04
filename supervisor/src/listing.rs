//! What others are told of VMs: the list, and the facts that policy judges by.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use casemate_api::{TemplateInfo, VmInfo};
use casemate_vm::{Tag, VmKind, VmName, VmSpec, VmState};
use serde::Serialize;

use crate::{
    driver::{Handle, Origin},
    house::House,
    refusal::Refusal,
    templates::updates,
};

/// Every VM, sorted by name. Blocks.
pub(crate) fn list(house: &House) -> Result<Vec<VmInfo>, Refusal> {
    let known = known(house)?;
    Ok(known.into_iter().map(|vm| vm.into_info()).collect())
}

/// Every template, sorted by name. Blocks.
pub(crate) fn templates(house: &House) -> Result<Vec<TemplateInfo>, Refusal> {
    let templates = house.volumes.templates()?.into_iter();
    let infos = templates.map(|template| {
        let updates = updates::of(house, &template.name, template.current);
        TemplateInfo {
            name: template.name.to_string(),
            current: template.current,
            revisions: template.revisions,
            kernel: template.kernel,
            created: template.created,
            updates: updates.map_or(0, |updates| updates.count),
            updates_told: updates.map_or(0, |updates| updates.told),
        }
    });
    Ok(infos.collect())
}

/// The label of a VM. Blocks.
pub(crate) fn label(house: &House, name: &VmName) -> Result<String, Refusal> {
    let vm = known(house)?
        .into_iter()
        .find(|vm| vm.name == *name)
        .ok_or_else(|| Refusal::no_vm(name.as_str()))?;
    Ok(vm.spec?.label.to_string())
}

/// A VM with what is known of it. A definition that cannot be read spoils only its own VM.
struct Known {
    name: VmName,
    kind: VmKind,
    state: VmState,
    problem: String,
    spec: Result<VmSpec, Refusal>,
    /// As they are now: an edit of the definition counts at once, also for a VM that runs. Nothing while that cannot be
    /// read: tags that a person may have taken off must not come back.
    tags: Option<BTreeSet<Tag>>,
    revision: u32,
    id: u32,
    pid: u32,
    recording: bool,
    /// Known without asking the giver of numbers.
    uuid: Option<String>,
}

fn known(house: &House) -> Result<Vec<Known>, Refusal> {
    let drivers = house.drivers();
    let mut names: BTreeSet<VmName> = house
        .definitions
        .names()
        .map_err(|error| Refusal::io("cannot list the definitions", &error))?
        .into_iter()
        .collect();
    names.extend(drivers.keys().cloned());
    Ok(names
        .into_iter()
        .filter_map(|name| describe(house, drivers.get(&name), name))
        .collect())
}

/// Nothing for a driver whose VM is neither defined any more nor running.
fn describe(house: &House, handle: Option<&Handle>, name: VmName) -> Option<Known> {
    let view = handle.map(Handle::view);
    let (state, mut problem) = view
        .as_ref()
        .map_or((VmState::Halted, String::new()), |view| {
            (view.state, view.problem.clone())
        });
    let running = view.and_then(|view| view.running);
    let (kind, spec) = match (&running, handle.map(|handle| &handle.origin)) {
        (Some(running), _) => (running.spec.kind, Ok(running.spec.clone())),
        (None, Some(Origin::Disposable(plan))) => (VmKind::Disposable, Ok(plan.spec.clone())),
        (None, _) if house.definitions.exists(&name) => {
            (VmKind::App, house.definitions.load(&name))
        }
        (None, _) => return None,
    };
    let tags = match (kind, &running) {
        (VmKind::App, Some(_)) => house.definitions.load(&name).map(|spec| spec.tags),
        _ => spec.clone().map(|spec| spec.tags),
    };
    if let Err(refusal) = &tags {
        problem.clone_from(&refusal.text);
    }
    if let Some(damage) = house.damage(&name) {
        problem = damage;
    }
    let (revision, id, pid) = running.as_ref().map_or((0, 0, 0), |running| {
        (running.revision, running.id, running.pid)
    });
    Some(Known {
        name,
        kind,
        state,
        problem,
        tags: tags.ok(),
        spec,
        revision,
        id,
        pid,
        recording: running.as_ref().is_some_and(|running| running.recording),
        uuid: running.map(|running| running.uuid),
    })
}

fn texts(tags: &BTreeSet<Tag>) -> Vec<String> {
    tags.iter().map(Tag::to_string).collect()
}

impl Known {
    fn into_info(self) -> VmInfo {
        let kind = match self.kind {
            VmKind::App => "app",
            VmKind::Disposable => "disposable",
        };
        let spec = self.spec.ok();
        let of_spec = |text: fn(&VmSpec) -> String| spec.as_ref().map(text).unwrap_or_default();
        VmInfo {
            kind: kind.to_owned(),
            state: self.state.to_string(),
            label: of_spec(|spec| spec.label.to_string()),
            template: of_spec(|spec| spec.template.to_string()),
            tags: self.tags.as_ref().map(texts).unwrap_or_default(),
            audio: spec.as_ref().is_some_and(|spec| spec.audio),
            recording: self.recording,
            memory_mib: spec.as_ref().map_or(0, |spec| spec.memory_mib.0),
            vcpus: spec.as_ref().map_or(0, |spec| spec.vcpus),
            name: self.name.to_string(),
            revision: self.revision,
            id: self.id,
            pid: self.pid,
            problem: self.problem,
        }
    }
}

#[derive(Serialize)]
struct Facts {
    domains: BTreeMap<String, Domain>,
}

#[derive(Serialize)]
struct Domain {
    #[serde(rename = "type")]
    kind: &'static str,
    tags: Vec<String>,
    default_dispvm: Option<String>,
    template_for_dispvms: bool,
    power_state: &'static str,
    uuid: String,
    internal: bool,
}

/// Facts for policy evaluation, as JSON. Every template is also a template of disposables. Blocks.
pub(crate) fn facts(house: &Arc<House>) -> Result<String, Refusal> {
    let mut domains = BTreeMap::new();
    let domain = |kind, uuid| Domain {
        kind,
        tags: Vec::new(),
        default_dispvm: None,
        template_for_dispvms: false,
        power_state: "Halted",
        uuid,
        internal: false,
    };
    let host = Domain {
        power_state: "Running",
        ..domain("AdminVM", "00000000-0000-0000-0000-000000000000".to_owned())
    };
    domains.insert("dom0".to_owned(), host);
    for template in house.volumes.templates()? {
        let fact = Domain {
            default_dispvm: Some(template.name.to_string()),
            template_for_dispvms: true,
            tags: texts(house.settings.tags_of(&template.name)),
            ..domain("TemplateVM", house.ids.uuid(&template.name)?)
        };
        domains.insert(template.name.to_string(), fact);
    }
    for vm in known(house)? {
        // A VM whose definition is broken does not exist for policy: nothing can be decided about it.
        let (Ok(spec), Some(tags)) = (vm.spec, vm.tags) else {
            continue;
        };
        let kind = match vm.kind {
            VmKind::App => "AppVM",
            VmKind::Disposable => "DispVM",
        };
        let uuid = match (vm.uuid, vm.kind) {
            (Some(uuid), _) => uuid,
            (None, VmKind::App) => house.ids.uuid(&vm.name)?,
            (None, VmKind::Disposable) => continue,
        };
        let power_state = match vm.state {
            VmState::Running => "Running",
            VmState::Halted | VmState::Crashed => "Halted",
            VmState::Preparing | VmState::Starting | VmState::Stopping => "Transient",
        };
        let fact = Domain {
            default_dispvm: Some(spec.default_dispvm.unwrap_or(spec.template).to_string()),
            power_state,
            tags: texts(&tags),
            ..domain(kind, uuid)
        };
        domains.insert(vm.name.to_string(), fact);
    }
    serde_json::to_string(&Facts { domains }).map_err(|error| Refusal::failed(error.to_string()))
}
