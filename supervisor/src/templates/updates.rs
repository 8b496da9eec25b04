//! How many packages of each template could be updated, as its VMs say. Only a number to be shown: a VM may lie.

use std::{path::PathBuf, time::SystemTime};

use casemate_vm::VmName;
use serde::{Deserialize, Serialize};

use crate::{durable, house::House, located, refusal::Refusal};

/// What a VM said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Updates {
    /// The revision that it ran.
    revision: u32,
    pub(crate) count: u32,
    /// Seconds since 1970.
    pub(crate) told: u64,
}

/// Notes what a running VM says. Blocks.
pub(crate) fn note(house: &House, vm: &VmName, count: u32) -> Result<(), Refusal> {
    let drivers = house.drivers();
    let running = drivers.get(vm).and_then(|driver| driver.view().running);
    let running = running.ok_or_else(|| Refusal::wrong_state(format!("'{vm}' does not run")))?;
    let template = running.spec.template;
    let current = house
        .volumes
        .templates()?
        .into_iter()
        .find(|known| known.name == template)
        .map(|known| known.current);
    if current != Some(running.revision) {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let updates = Updates {
        revision: running.revision,
        count,
        told: now.map_or(0, |since| since.as_secs()),
    };
    let text = toml::to_string(&updates).map_err(|error| Refusal::failed(error.to_string()))?;
    durable::replace(&path(house, &template), &text)
        .map_err(|error| Refusal::io(format!("cannot note the updates of '{template}'"), &error))
}

/// What was said of a revision. Blocks.
pub(crate) fn of(house: &House, template: &VmName, revision: u32) -> Option<Updates> {
    match located::read_optional::<Updates>(&path(house, template)) {
        Ok(updates) => updates.filter(|updates| updates.revision == revision),
        Err(error) => {
            tracing::warn!(%template, %error, "what is known of its updates cannot be read");
            None
        }
    }
}

fn path(house: &House, template: &VmName) -> PathBuf {
    house
        .paths
        .state
        .join("updates")
        .join(format!("{template}.toml"))
}
