//! Making disposables: whose template, how many, under which name.

use std::sync::{Arc, PoisonError};

use casemate_vm::{Label, VmKind, VmName, VmSpec};
use tokio::task::spawn_blocking;

use crate::{
    driver::{self, Handle, Origin},
    house::{House, parse},
    ids::new_uuid,
    launch::Plan,
    life::{Life, Request},
    refusal::{Kind, Refusal},
    warm,
};

/// Disposables that one VM may have at a time: a hostile VM must not fill the machine with them.
const MAX_PER_VM: usize = 8;

/// Makes and starts a disposable; returns its driver when the agent has reported. After a failure nothing is left.
pub(crate) async fn create(
    house: &Arc<House>,
    for_vm: &str,
    template: &str,
) -> Result<(VmName, Handle), Refusal> {
    let made_for = if for_vm.is_empty() {
        None
    } else {
        Some(parse(for_vm)?)
    };
    let template = if template.is_empty() {
        None
    } else {
        Some(parse(template)?)
    };
    let (name, handle) = {
        let house = Arc::clone(house);
        spawn_blocking(move || make(&house, made_for, template))
            .await
            .map_err(|error| Refusal::failed(error.to_string()))??
    };
    handle.ask(Request::Start).await?;
    if let Origin::Disposable(plan) = &handle.origin {
        warm::wanted(house, &plan.spec);
    }
    Ok((name, handle))
}

fn make(
    house: &Arc<House>,
    made_for: Option<VmName>,
    template: Option<VmName>,
) -> Result<(VmName, Handle), Refusal> {
    let template = match (template, &made_for) {
        (Some(template), _) => template,
        (None, Some(vm)) => default_for(house, vm)?,
        (None, None) => default_template(house)?,
    };
    house.volumes.check_template(&template)?;
    let _making = house
        .making_disposable
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(vm) = &made_for {
        let count = house
            .drivers()
            .values()
            .filter(|handle| is_for(handle, vm))
            .count();
        if count >= MAX_PER_VM {
            return Err(Refusal::new(
                Kind::Busy,
                format!("'{vm}' has {count} disposables already; close one of them first"),
            ));
        }
    }
    let reserved = house.reserve(free_name(house)?)?;
    let name = reserved.name.clone();
    let tags = house.settings.tags_of(&template).clone();
    let spec = VmSpec {
        tags,
        ..VmSpec::new(VmKind::Disposable, template, Label::Red)
    };
    let plan = Plan {
        name: name.clone(),
        spec,
        uuid: new_uuid()?,
        made_for,
    };
    let life = Life::halted(VmKind::Disposable);
    let origin = Origin::Disposable(Box::new(plan));
    let handle = driver::spawn(house, name.clone(), origin, life, Vec::new(), None);
    house.add_driver(name.clone(), handle.clone());
    Ok((name, handle))
}

/// The template of the disposables that a VM opens.
fn default_for(house: &House, vm: &VmName) -> Result<VmName, Refusal> {
    let spec = match house.drivers().get(vm).map(Handle::view) {
        Some(view) => match view.running {
            Some(running) => running.spec,
            None => house.definitions.load(vm)?,
        },
        None => house.definitions.load(vm)?,
    };
    Ok(spec.default_dispvm.unwrap_or(spec.template))
}

/// The template of the disposables that the person at the host opens.
fn default_template(house: &House) -> Result<VmName, Refusal> {
    if let Some(template) = &house.settings.disposables.template {
        return Ok(template.clone());
    }
    let templates = house.volumes.templates()?;
    match templates.as_slice() {
        [] => Err(Refusal::not_found(
            "there is no template; `casemate template build debian-12` makes one",
        )),
        [only] => Ok(only.name.clone()),
        several => {
            let names: Vec<&str> = several
                .iter()
                .map(|template| template.name.as_str())
                .collect();
            Err(Refusal::new(
                Kind::Usage,
                format!(
                    "there are several templates ({}); say which, or set `template` below [disposables] in casemate.toml",
                    names.join(", ")
                ),
            ))
        }
    }
}

fn is_for(handle: &Handle, vm: &VmName) -> bool {
    matches!(&handle.origin, Origin::Disposable(plan) if plan.made_for.as_ref() == Some(vm))
}

/// The next name that no person has given to a VM of theirs.
pub(crate) fn free_name(house: &House) -> Result<VmName, Refusal> {
    loop {
        let name = house.ids.next_disposable()?;
        if !house.definitions.exists(&name) {
            return Ok(name);
        }
    }
}
