//! The supervisor's rooms: definitions, records, numbers, volumes, the services, and the driver of each VM.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use casemate_api::Bus;
use casemate_vm::{VmKind, VmName, VmSpec};
use tokio::task::spawn_blocking;

use crate::{
    cgroup::Limiter,
    definitions::Definitions,
    driver::{self, Handle, Origin},
    durable,
    ids::Ids,
    launch::Plan,
    life::{Life, Request},
    paths::Paths,
    pending::Pending,
    refusal::{Kind, Refusal},
    run_record::{RunRecord, RunRecords},
    services::{Command, Service, mixer::Mixer},
    settings::Settings,
    volumes::Volumes,
    warm::Warm,
};

/// Everything that is there once.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) paths: Paths,
    pub(crate) settings: Settings,
    pub(crate) definitions: Definitions,
    pub(crate) records: RunRecords,
    pub(crate) pending: Pending,
    pub(crate) ids: Ids,
    pub(crate) volumes: Volumes,
    pub(crate) limiter: Limiter,
    pub(crate) broker: Service,
    pub(crate) compositor: Service,
    pub(crate) mixer: Mixer,
    pub(crate) warm: Warm,
    /// Held while a disposable is counted and added, so that a VM's quota holds for many at once too.
    pub(crate) making_disposable: Mutex<()>,
    /// Who drives what; held for look-ups and inserts only, so that of two creators one wins.
    drivers: Mutex<Drivers>,
}

#[derive(Debug, Default)]
struct Drivers {
    of: BTreeMap<VmName, Handle>,
    /// Names of VMs that are being created.
    reserved: BTreeSet<VmName>,
    /// Names of VMs whose record could not be read, with the reason.
    damaged: BTreeMap<VmName, String>,
}

/// A name that is being created; free again when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    house: Arc<House>,
    pub(crate) name: VmName,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.house.lock().reserved.remove(&self.name);
    }
}

impl House {
    /// Opens what is on disk and begins to keep the services.
    pub(crate) fn open(paths: Paths, settings: Settings) -> Result<Arc<Self>, Refusal> {
        let mut broker = vec!["--runtime".to_owned(), paths.runtime.display().to_string()];
        let mut compositor = broker.clone();
        for dir in paths.policy_dirs() {
            broker.extend(["--policy".to_owned(), dir.display().to_string()]);
        }
        broker.extend(["--state".to_owned(), paths.state.display().to_string()]);
        compositor.extend(["--backend".to_owned(), settings.backend().to_owned()]);
        Ok(Arc::new(Self {
            definitions: Definitions::new(paths.config.join("vms")),
            records: RunRecords::new(paths.state.join("run")),
            pending: Pending::new(paths.state.join("pending")),
            ids: Ids::open(&paths.state)?,
            volumes: Volumes::open(&paths)?,
            limiter: Limiter::find(&paths.runtime)
                .map_err(|error| Refusal::io("no directory for sockets", &error))?,
            broker: Service::keep(
                &paths,
                Command {
                    bus: Bus::Qrexec,
                    program: "casemate-qrexec",
                    arguments: broker,
                },
            ),
            compositor: Service::keep(
                &paths,
                Command {
                    bus: Bus::Compositor,
                    program: "casemate-compositor",
                    arguments: compositor,
                },
            ),
            mixer: Mixer::keep(&paths),
            warm: Warm::default(),
            making_disposable: Mutex::new(()),
            drivers: Mutex::default(),
            paths,
            settings,
        }))
    }

    /// The driver of a VM, made when the VM is defined and has none.
    pub(crate) fn driver(self: &Arc<Self>, name: &VmName) -> Result<Handle, Refusal> {
        let mut drivers = self.lock();
        if let Some(handle) = drivers.of.get(name) {
            return Ok(handle.clone());
        }
        if drivers.reserved.contains(name) || !self.definitions.exists(name) {
            return Err(Refusal::no_vm(name.as_str()));
        }
        let life = Life::halted(VmKind::App);
        let handle = driver::spawn(self, name.clone(), Origin::Defined, life, Vec::new(), None);
        drivers.of.insert(name.clone(), handle.clone());
        Ok(handle)
    }

    /// Asks the driver of a VM and waits for the answer.
    pub(crate) async fn ask(self: &Arc<Self>, name: &str, request: Request) -> Result<(), Refusal> {
        let name = parse(name)?;
        self.driver(&name)?.ask(request).await
    }

    /// The drivers that exist.
    pub(crate) fn drivers(&self) -> BTreeMap<VmName, Handle> {
        self.lock().of.clone()
    }

    /// Adds a driver that begins in the middle of a life.
    pub(crate) fn add_driver(&self, name: VmName, handle: Handle) {
        self.lock().of.insert(name, handle);
    }

    /// To be called by a driver that ends.
    pub(crate) fn forget_driver(&self, name: &VmName) {
        self.lock().of.remove(name);
    }

    /// Notes that a VM's record could not be read.
    pub(crate) fn note_damage(&self, name: VmName, what: String) {
        self.lock().damaged.insert(name, what);
    }

    pub(crate) fn damage(&self, name: &VmName) -> Option<String> {
        self.lock().damaged.get(name).cloned()
    }

    /// Takes a name for a VM to be created. Of two that race, one wins.
    pub(crate) fn reserve(self: &Arc<Self>, name: VmName) -> Result<Reserved, Refusal> {
        let taken = |what: &str| {
            Err(Refusal::wrong_state(format!(
                "{what} '{name}' exists already; choose another name"
            )))
        };
        let mut drivers = self.lock();
        if drivers.of.contains_key(&name)
            || drivers.reserved.contains(&name)
            || self.definitions.exists(&name)
        {
            return taken("a VM");
        }
        if self.volumes.check_template(&name).is_ok() {
            return taken("a template");
        }
        drivers.reserved.insert(name.clone());
        Ok(Reserved {
            house: Arc::clone(self),
            name,
        })
    }

    /// What a defined VM is started with. Blocks.
    pub(crate) fn plan(&self, name: &VmName) -> Result<Plan, Refusal> {
        Ok(Plan {
            name: name.clone(),
            spec: self.definitions.load(name)?,
            uuid: self.ids.uuid(name)?,
            made_for: None,
        })
    }

    /// Makes a VM: volume, then definition; all or nothing. Blocks.
    pub(crate) fn create(&self, reserved: &Reserved, spec: &VmSpec) -> Result<(), Refusal> {
        let name = &reserved.name;
        let wrap = |error: io::Error| Refusal::io(format!("cannot create '{name}'"), &error);
        self.pending.begin(name).map_err(wrap)?;
        let result = self.volumes.create_private(name, spec).and_then(|()| {
            self.definitions
                .create(name, spec)
                .map_err(wrap)
                .inspect_err(|_| {
                    if let Err(refusal) = self.volumes.remove(name) {
                        tracing::error!(vm = %name, %refusal, "a new volume stays");
                    }
                })
        });
        let result = result.map_err(|refusal| match refusal.kind {
            // A volume without a definition: a person has removed the file and may want the data back.
            Kind::WrongState => Refusal::wrong_state(format!(
                "a private volume of '{name}' is left from before; restore {name}.toml to use it, or choose another name"
            )),
            _ => refusal,
        });
        self.pending.end(name).map_err(wrap)?;
        result
    }

    /// Deletes a VM: definition, then volume. Blocks. To be called only by its driver.
    pub(crate) fn delete(&self, name: &VmName) -> Result<(), Refusal> {
        let wrap = |error: io::Error| Refusal::io(format!("cannot remove '{name}'"), &error);
        let spec = self.definitions.load(name);
        self.pending.begin(name).map_err(wrap)?;
        self.definitions.remove(name).map_err(wrap)?;
        if let Err(refusal) = self.volumes.remove(name) {
            let restored = spec.and_then(|spec| self.definitions.create(name, &spec).map_err(wrap));
            if restored.is_ok() {
                self.pending.end(name).map_err(wrap)?;
            }
            return Err(refusal);
        }
        self.ids.forget(name)?;
        self.remove_logs(name)?;
        self.pending.end(name).map_err(wrap)
    }

    /// Removes what a VM has printed. Blocks.
    pub(crate) fn remove_logs(&self, name: &VmName) -> Result<(), Refusal> {
        for file in [format!("{name}.ring"), format!("{name}.vmm.log")] {
            durable::remove(&self.paths.log(&file)).map_err(|error| {
                Refusal::io(format!("cannot remove the logs of '{name}'"), &error)
            })?;
        }
        Ok(())
    }

    /// Writes the record of a VM unless it has ended.
    pub(crate) async fn update_record(
        self: &Arc<Self>,
        name: &VmName,
        record: RunRecord,
    ) -> Result<(), Refusal> {
        let (house, name) = (Arc::clone(self), name.clone());
        spawn_blocking(move || house.records.update(&name, &record))
            .await
            .map_err(|error| Refusal::failed(error.to_string()))?
            .map_err(|error| Refusal::io("cannot write its record", &error))
    }

    fn lock(&self) -> MutexGuard<'_, Drivers> {
        // Nothing in there can be half-changed by a panic.
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A VM name from outside.
pub(crate) fn parse(name: &str) -> Result<VmName, Refusal> {
    name.parse()
        .map_err(|error| Refusal::new(Kind::Usage, format!("'{name}' cannot name a VM: {error}")))
}
