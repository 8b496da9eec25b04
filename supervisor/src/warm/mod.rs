//! Warm images: a disposable goes on from the memory of one that has booted before.
//!
//! After a disposable has started, a hidden VM of the same shape is booted, saved when it is ready, and tried once; then
//! there is an image, and the next disposables of that shape go on from it. Whatever fails, a disposable boots instead.

mod identity;
mod image;
mod make;
mod shape;

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{Arc, Mutex, PoisonError},
};

use casemate_storage::Revision;
use casemate_vm::{VmKind, VmSpec};
use tokio::task::spawn_blocking;

use self::{
    image::Image,
    shape::{Build, Shape},
};
use crate::{
    attach,
    driver::clean_up,
    house::House,
    launch::{Given, Plan, launch},
    machine::Machine,
    refusal::{Kind, Refusal},
};

/// Images at a time. Each takes about as much disk as its VM has touched memory.
const MAX_IMAGES: usize = 4;

/// Images of one shape that are begun by one supervisor and come to nothing, before it is left alone.
const MAX_FAILURES: u32 = 2;

/// A VM that goes on from an image has this part of a start's time, then it is booted: the person has waited already.
const PART_OF_START: u32 = 3;

/// What is remembered of images besides the disk.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    /// Held while one is made: a hidden VM at a time.
    making: Arc<tokio::sync::Mutex<()>>,
    failures: Mutex<BTreeMap<Shape, u32>>,
}

/// Starts a VM: from an image when that is wanted and there is one, else by a boot.
pub(crate) async fn start(house: Arc<House>, plan: Plan) -> Result<Machine, Refusal> {
    if wants(&house, &plan.spec)
        && let Some((image, revision)) = find(&house, &plan.spec).await
    {
        match restore(&house, &plan, image.clone(), revision).await {
            Ok(machine) => {
                tracing::info!(vm = %plan.name, "started from a warm image");
                return Ok(machine);
            }
            Err(refusal) => {
                tracing::warn!(vm = %plan.name, %refusal, "its warm image is of no use; it boots instead");
                clean_up(&house, &plan.name).await;
                // A machine that lacks something says nothing about the image.
                if refusal.kind != Kind::NoResources {
                    drop_image(&house, image).await;
                }
            }
        }
    }
    launch(house, plan, None).await
}

/// Notes that a disposable has started: when its like shall start from an image, and there is none, one is made in the
/// background.
pub(crate) fn wanted(house: &Arc<House>, spec: &VmSpec) {
    if !wants(house, spec) {
        return;
    }
    let Ok(making) = Arc::clone(&house.warm.making).try_lock_owned() else {
        return;
    };
    let (house, spec) = (Arc::clone(house), spec.clone());
    tokio::spawn(async move {
        let _making = making;
        if let Err(refusal) = make::unless_there(&house, spec).await {
            tracing::warn!(%refusal, "no warm image was made");
        }
    });
}

/// Removes what cannot be used: half-made images, those of another revision or monitor, and the oldest beyond the bound.
/// What stays all the same is told in the log, and is not used either. Blocks. Nothing may be made meanwhile.
pub(crate) fn sweep(house: &House) {
    let folder = house.volumes.store().warm_dir();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "warm images cannot be listed");
            return;
        }
    };
    let mut kept = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let loaded = Image::load(&path);
        let removed = match loaded.and_then(|image| Ok((image.made()?, image))) {
            Ok((made, image)) if is_of_use(house, &image) => {
                kept.push((made, image));
                Ok(())
            }
            Ok((_, image)) => image.remove(),
            Err(_) => fs::remove_dir_all(&path),
        };
        told(removed);
    }
    kept.sort_by_key(|(made, _)| *made);
    let beyond = kept.len().saturating_sub(MAX_IMAGES);
    for (_, image) in kept.iter().take(beyond) {
        told(image.remove());
    }
}

fn told(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "a warm image that is of no use stays");
    }
}

fn wants(house: &House, spec: &VmSpec) -> bool {
    spec.kind == VmKind::Disposable && house.settings.warm(&spec.template)
}

fn is_of_use(house: &House, image: &Image) -> bool {
    let shape = &image.manifest.shape;
    let revision = house.volumes.revision(&shape.template);
    house.settings.warm(&shape.template)
        && matches!((revision, build(house)), (Ok(revision), Ok(build)) if shape.is_of(&revision, build))
}

fn build(house: &House) -> Result<Build, Refusal> {
    let program = house
        .paths
        .program("casemate-vmm")
        .map_err(|error| Refusal::failed(format!("{error:#}")))?;
    Build::of(&program).map_err(|error| Refusal::io("cannot inspect casemate-vmm", &error))
}

/// The image that a VM can go on from, with the revision that it is of.
async fn find(house: &Arc<House>, spec: &VmSpec) -> Option<(Image, Revision)> {
    let (house, spec) = (Arc::clone(house), spec.clone());
    let found = spawn_blocking(move || {
        let revision = house.volumes.revision(&spec.template)?;
        let shape = Shape::of(&spec, &revision, build(&house)?);
        let found = look(&house, &shape)
            .map_err(|error| Refusal::io("cannot list the warm images", &error))?;
        Ok::<_, Refusal>(found.map(|image| (image, revision)))
    });
    match found.await {
        Ok(Ok(found)) => found,
        Ok(Err(refusal)) => {
            tracing::warn!(%refusal, "no warm image");
            None
        }
        Err(error) => {
            tracing::error!(%error, "no warm image");
            None
        }
    }
}

/// The image of this shape.
fn look(house: &House, shape: &Shape) -> io::Result<Option<Image>> {
    for entry in fs::read_dir(house.volumes.store().warm_dir())? {
        // One that is being made has no manifest yet.
        if let Ok(image) = Image::load(&entry?.path())
            && image.manifest.shape == *shape
        {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// Goes on from an image; the machine is ready when this returns. After a failure no process is left.
async fn restore(
    house: &Arc<House>,
    plan: &Plan,
    image: Image,
    revision: Revision,
) -> Result<Machine, Refusal> {
    let given = open(house, image, revision).await?;
    let mut machine = launch(Arc::clone(house), plan.clone(), Some(given)).await?;
    let limit = house.settings.start_timeout() / PART_OF_START;
    let ready = async {
        attach::wait_agent(house, &plan.name, limit).await?;
        identity::give(house, &plan.name).await?;
        let mut record = machine.record.clone();
        record.unfinished = false;
        house.update_record(&plan.name, record).await
    };
    match unless_ended(&machine, ready).await {
        Ok(()) => {
            machine.record.unfinished = false;
            Ok(machine)
        }
        Err(refusal) => {
            machine.kill();
            machine.ended().await;
            Err(refusal)
        }
    }
}

async fn open(house: &Arc<House>, image: Image, revision: Revision) -> Result<Given, Refusal> {
    let house = Arc::clone(house);
    spawn_blocking(move || image.given(house.volumes.store(), &revision))
        .await
        .unwrap_or_else(|error| Err(Refusal::failed(error.to_string())))
}

/// What comes of work with a machine, or that the machine ended.
async fn unless_ended<T>(
    machine: &Machine,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::select! {
        result = work => result,
        () = machine.ended() => Err(Refusal::failed("its vmm ended; see its log")),
    }
}

async fn drop_image(house: &Arc<House>, image: Image) {
    house.warm.failed(&image.manifest.shape);
    // A panic there is a bug that the panic hook has told already.
    let _ = spawn_blocking(move || told(image.remove())).await;
}

impl Warm {
    /// Counts what came to nothing.
    fn failed(&self, shape: &Shape) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(shape.clone()).or_default() += 1;
    }

    /// Whether it is worth trying once more.
    fn may_try(&self, shape: &Shape) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures
            .get(shape)
            .is_none_or(|count| *count < MAX_FAILURES)
    }
}
