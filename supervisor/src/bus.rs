//! The supervisor's bus: each method asks and maps the answer. No state here but who is asked.

use std::{collections::BTreeSet, fs::File, os::fd::OwnedFd as StdFd, sync::Arc, time::Duration};

use casemate_api::{Error, NewVm, SoundInfo, TemplateInfo, VmInfo};
use casemate_vm::{Mebibytes, Tag, VmKind, VmSpec};
use tokio::{sync::watch, task::spawn_blocking};
use zbus::zvariant::OwnedFd;

use crate::{
    calls::{self, Callee},
    disposables,
    house::{House, parse},
    life::Request,
    listing,
    refusal::{Kind, Refusal},
    templates,
};

/// How long a guest may take to power off when the caller names no time.
const POWER_OFF: u32 = 60;

/// The interface, one per client.
#[derive(Clone, Debug)]
pub(crate) struct SupervisorBus {
    house: Arc<House>,
    /// Closed when the client has gone.
    client: watch::Receiver<()>,
}

#[zbus::interface(name = "org.casemate.Supervisor1")]
impl SupervisorBus {
    async fn list(&self) -> Result<Vec<VmInfo>, Error> {
        self.blocking(|house| listing::list(house)).await
    }

    async fn note_updates(&self, vm: &str, count: u32) -> Result<(), Error> {
        let vm = parse(vm)?;
        self.blocking(move |house| templates::updates::note(house, &vm, count))
            .await
    }

    async fn templates(&self) -> Result<Vec<TemplateInfo>, Error> {
        self.blocking(|house| listing::templates(house)).await
    }

    async fn create(&self, vm: NewVm) -> Result<(), Error> {
        self.blocking(move |house| create(house, &vm)).await
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        Ok(self.house.ask(name, Request::Remove).await?)
    }

    async fn tag(
        &self,
        name: &str,
        add: Vec<String>,
        remove: Vec<String>,
    ) -> Result<Vec<String>, Error> {
        let name = parse(name)?;
        self.blocking(move |house| {
            let tags = house
                .definitions
                .tag(&name, &parse_tags(&add)?, &parse_tags(&remove)?)?;
            Ok(tags.into_iter().map(String::from).collect())
        })
        .await
    }

    async fn start(&self, name: &str) -> Result<(), Error> {
        Ok(self.house.ask(name, Request::Start).await?)
    }

    async fn shutdown(&self, name: &str, timeout_s: u32) -> Result<(), Error> {
        let seconds = if timeout_s == 0 { POWER_OFF } else { timeout_s };
        let timeout = Duration::from_secs(u64::from(seconds));
        Ok(self.house.ask(name, Request::Shutdown { timeout }).await?)
    }

    async fn kill(&self, name: &str) -> Result<(), Error> {
        Ok(self.house.ask(name, Request::Kill).await?)
    }

    async fn create_disposable(&self, for_vm: &str, template: &str) -> Result<String, Error> {
        let (name, _) = disposables::create(&self.house, for_vm, template).await?;
        Ok(name.to_string())
    }

    async fn destroy_disposable(&self, name: &str) -> Result<(), Error> {
        Ok(self.house.ask(name, Request::Destroy).await?)
    }

    async fn run_command(&self, name: &str, user: &str, command: &str) -> Result<OwnedFd, Error> {
        Ok(calls::call(&self.house, name, user, Callee::Command(command)).await?)
    }

    async fn call_service(&self, name: &str, user: &str, service: &str) -> Result<OwnedFd, Error> {
        Ok(calls::call(&self.house, name, user, Callee::Service(service)).await?)
    }

    async fn call_disposable(
        &self,
        template: &str,
        service: &str,
    ) -> Result<(String, OwnedFd), Error> {
        Ok(calls::call_disposable(&self.house, template, service, self.client.clone()).await?)
    }

    async fn grant_recording(&self, name: &str) -> Result<(), Error> {
        let driver = self.house.driver(&parse(name)?)?;
        driver.check_sound()?;
        self.house.mixer.running().await?;
        Ok(driver.recording(true).await?)
    }

    async fn revoke_recording(&self, name: &str) -> Result<(), Error> {
        Ok(self.house.driver(&parse(name)?)?.recording(false).await?)
    }

    async fn sound(&self) -> Result<SoundInfo, Error> {
        Ok(self.house.mixer.info())
    }

    async fn log(&self, name: &str) -> Result<OwnedFd, Error> {
        let name = parse(name)?;
        let file = self
            .blocking(move |house| {
                File::open(house.paths.log(&format!("{name}.ring"))).map_err(|error| {
                    match error.kind() {
                        std::io::ErrorKind::NotFound => Refusal::not_found(format!(
                            "'{name}' has no console log; it was never started, or there is no such VM"
                        )),
                        _ => Refusal::io("cannot open the console log", &error),
                    }
                })
            })
            .await?;
        Ok(StdFd::from(file).into())
    }

    async fn build_template(&self, recipe: &str) -> Result<OwnedFd, Error> {
        let recipe = recipe.to_owned();
        let progress = self
            .blocking(move |house| templates::begin(house, &recipe))
            .await?;
        Ok(progress.into())
    }

    async fn facts(&self) -> Result<String, Error> {
        self.blocking(listing::facts).await
    }

    async fn label(&self, name: &str) -> Result<String, Error> {
        let name = parse(name)?;
        self.blocking(move |house| listing::label(house, &name))
            .await
    }
}

impl SupervisorBus {
    pub(crate) fn new(house: Arc<House>, client: watch::Receiver<()>) -> Self {
        Self { house, client }
    }

    /// Runs what touches the disk where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<House>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Error> {
        let house = Arc::clone(&self.house);
        let result = spawn_blocking(move || work(&house)).await;
        Ok(result.unwrap_or_else(|error| Err(Refusal::failed(error.to_string())))?)
    }
}

fn parse_tags(tags: &[String]) -> Result<BTreeSet<Tag>, Refusal> {
    let parsed = tags.iter().map(|tag| tag.parse::<Tag>());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| Refusal::new(Kind::Usage, error.to_string()))
}

fn create(house: &Arc<House>, vm: &NewVm) -> Result<(), Refusal> {
    let usage = |text: String| Refusal::new(Kind::Usage, text);
    let label = vm
        .label
        .parse()
        .map_err(|error| usage(format!("{error}")))?;
    let template = parse(&vm.template)?;
    let mut spec = VmSpec::new(VmKind::App, template, label);
    if vm.memory_mib != 0 {
        spec.memory_mib = Mebibytes(vm.memory_mib);
    }
    if vm.vcpus != 0 {
        spec.vcpus = vm.vcpus;
    }
    if vm.private_mib != 0 {
        spec.private_mib = Mebibytes(vm.private_mib);
    }
    spec.audio = vm.audio;
    spec.tags = parse_tags(&vm.tags)?;
    spec.check().map_err(|error| usage(error.to_string()))?;
    let reserved = house.reserve(parse(&vm.name)?)?;
    house.volumes.check_template(&spec.template)?;
    house.create(&reserved, &spec)
}
