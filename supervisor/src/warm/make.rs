//! Making an image: a hidden VM is booted, saved and ended, and a second one goes on from what was saved.
//!
//! Neither is in any list: no driver has them, policy knows no fact about them, so no call reaches or leaves them. Their
//! records are unfinished, so the next supervisor ends what this one leaves.

use std::{io, os::fd::AsFd, path::PathBuf, sync::Arc, time::Duration};

use casemate_storage::Revision;
use casemate_vm::{VmName, VmSpec};
use casemate_vmm_control::{Action, SnapshotKey};
use rustix::fs::statvfs;
use tokio::task::spawn_blocking;

use super::{
    build, identity,
    image::{Draft, Image},
    look, open,
    shape::Shape,
    sweep, unless_ended,
};
use crate::{
    attach,
    disposables::free_name,
    driver::clean_up,
    house::{House, Reserved},
    ids::{new_uuid, random},
    launch::{Given, Plan, launch},
    machine::Machine,
    refusal::{Kind, Refusal},
};

/// Disk that stays free beside an image, in bytes.
const SPARE: u64 = 1024 * 1024 * 1024;

/// How long a vmm may take for a pause or a working set.
const SHORT: Duration = Duration::from_secs(30);

/// How long a vmm may take to write its guest's memory.
const SAVE: Duration = Duration::from_secs(180);

/// A VM that nobody sees.
struct Hidden {
    machine: Machine,
    /// Its name is nobody else's meanwhile.
    _reserved: Reserved,
    name: VmName,
}

/// Makes an image of the shape that a VM of `spec` has now, unless there is one or there was no luck before.
pub(super) async fn unless_there(house: &Arc<House>, spec: VmSpec) -> Result<(), Refusal> {
    let begun = {
        let (house, spec) = (Arc::clone(house), spec.clone());
        blocking(move || begin(&house, &spec)).await?
    };
    let Some(begun) = begun else {
        return Ok(());
    };
    let shape = begun.shape.clone();
    tracing::info!(template = %shape.template, revision = shape.revision, "a warm image is being made");
    let made = make(house, spec, begun).await;
    match &made {
        Ok(()) => {
            tracing::info!(template = %shape.template, revision = shape.revision, "a warm image is ready");
        }
        Err(_) => house.warm.failed(&shape),
    }
    made
}

struct Begun {
    shape: Shape,
    revision: Revision,
    draft: Draft,
    given: Given,
    key: SnapshotKey,
}

/// The folder and its fresh volumes; nothing when no image is to be made.
fn begin(house: &House, spec: &VmSpec) -> Result<Option<Begun>, Refusal> {
    let wrap = |error: io::Error| Refusal::io("no warm image", &error);
    let revision = house.volumes.revision(&spec.template)?;
    let shape = Shape::of(spec, &revision, build(house)?);
    if !house.warm.may_try(&shape) || look(house, &shape).map_err(wrap)?.is_some() {
        return Ok(None);
    }
    sweep(house);
    let store = house.volumes.store();
    room(&store.warm_dir(), &shape)?;
    let key = SnapshotKey::new(random()?);
    let folder = store.warm_dir().join(new_uuid()?);
    let (draft, given) = Draft::begin(store, folder, &revision, spec, shape.clone(), key.clone())?;
    Ok(Some(Begun {
        shape,
        revision,
        draft,
        given,
        key,
    }))
}

/// An error when an image could fill the disk.
fn room(folder: &PathBuf, shape: &Shape) -> Result<(), Refusal> {
    let disk = statvfs(folder)
        .map_err(|errno| Refusal::io("cannot tell how much disk is free", &errno.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < shape.memory().bytes().saturating_add(SPARE) {
        return Err(Refusal::new(
            Kind::NoResources,
            format!(
                "a warm image needs {} MiB and a GiB beside it, and {} MiB of disk are free",
                shape.memory().0,
                free / (1024 * 1024)
            ),
        ));
    }
    Ok(())
}

async fn make(house: &Arc<House>, spec: VmSpec, begun: Begun) -> Result<(), Refusal> {
    let Begun {
        revision,
        mut draft,
        given,
        key,
        ..
    } = begun;
    let hidden = Hidden::start(house, &spec, given).await?;
    let id = hidden.machine.record.id;
    let saved = unless_ended(&hidden.machine, save(house, &hidden, &draft, key)).await;
    hidden.end(house).await;
    saved?;
    let (draft, image) = blocking(move || {
        let image = draft.freeze(id).map_err(|error| disk(&error))?;
        Ok((draft, image))
    })
    .await?;
    let working_set = prove(house, &spec, image, revision, &draft).await?;
    blocking(move || draft.commit(working_set).map_err(|error| disk(&error))).await
}

/// Waits until the VM could be used, and writes it down.
async fn save(
    house: &House,
    hidden: &Hidden,
    draft: &Draft,
    key: SnapshotKey,
) -> Result<(), Refusal> {
    attach::wait_agent(house, &hidden.name, house.settings.start_timeout()).await?;
    identity::session(house, &hidden.name).await?;
    let machine = &hidden.machine;
    machine.perform(&Action::Pause, &[], SHORT).await?;
    let [state, memory] = draft.snapshot_files().map_err(|error| disk(&error))?;
    let files = [state.as_fd(), memory.as_fd()];
    machine
        .perform(&Action::Snapshot { key }, &files, SAVE)
        .await
}

/// Goes on from the image once, as a disposable would. Says whether there is a working set: a VM that changed much has
/// none.
async fn prove(
    house: &Arc<House>,
    spec: &VmSpec,
    image: Image,
    revision: Revision,
    draft: &Draft,
) -> Result<bool, Refusal> {
    let given = open(house, image, revision).await?;
    let hidden = Hidden::start(house, spec, given).await?;
    let work = async {
        attach::wait_agent(house, &hidden.name, house.settings.start_timeout()).await?;
        identity::give(house, &hidden.name).await?;
        identity::session(house, &hidden.name).await?;
        let file = draft.working_set_file().map_err(|error| disk(&error))?;
        let files = [file.as_fd()];
        let written = hidden
            .machine
            .perform(&Action::SaveWorkingSet, &files, SHORT)
            .await
            .inspect_err(|refusal| tracing::info!(%refusal, "a warm image has no working set"));
        Ok(written.is_ok())
    };
    let proved = unless_ended(&hidden.machine, work).await;
    hidden.end(house).await;
    proved
}

impl Hidden {
    async fn start(house: &Arc<House>, spec: &VmSpec, given: Given) -> Result<Self, Refusal> {
        let reserved = {
            let house = Arc::clone(house);
            blocking(move || house.reserve(free_name(&house)?)).await?
        };
        let name = reserved.name.clone();
        let plan = Plan {
            name: name.clone(),
            spec: spec.clone(),
            uuid: new_uuid()?,
            made_for: None,
        };
        match launch(Arc::clone(house), plan, Some(given)).await {
            Ok(machine) => Ok(Self {
                machine,
                _reserved: reserved,
                name,
            }),
            Err(refusal) => {
                remove(house, name).await;
                Err(refusal)
            }
        }
    }

    async fn end(self, house: &Arc<House>) {
        self.machine.kill();
        self.machine.ended().await;
        remove(house, self.name.clone()).await;
    }
}

/// Removes what a hidden VM leaves, its logs included.
async fn remove(house: &Arc<House>, name: VmName) {
    clean_up(house, &name).await;
    let house = Arc::clone(house);
    if let Err(refusal) = blocking(move || house.remove_logs(&name)).await {
        tracing::warn!(%refusal, "the logs of a hidden VM stay");
    }
}

fn disk(error: &io::Error) -> Refusal {
    Refusal::io("a warm image cannot be written", error)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Refusal::failed(error.to_string())))
}
