//! Building templates in the background, with progress for whoever asked.

pub(crate) mod updates;

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    sync::Arc,
};

use casemate_template_builder::{BuildOptions, Progress, build};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::{
    house::{House, parse},
    refusal::{Kind, Refusal, chain},
};

/// Begins a build and returns the reading end of its progress. The build goes on when nobody reads.
pub(crate) fn begin(house: &Arc<House>, recipe: &str) -> Result<OwnedFd, Refusal> {
    let name = parse(recipe)?;
    if house.definitions.exists(&name) {
        return Err(Refusal::new(
            Kind::Usage,
            format!("a VM is called '{name}'; a template needs a name of its own"),
        ));
    }
    let options = options(house)?;
    let (reader, writer) = io::pipe().map_err(|error| Refusal::io("no pipe", &error))?;
    let house = Arc::clone(house);
    spawn_blocking(move || {
        let mut listener = Listener(Some(File::from(OwnedFd::from(writer))));
        let mut tell = |Progress { phase, fraction }: Progress| {
            listener.tell(&json!({ "phase": phase, "fraction": fraction }));
        };
        match build(house.volumes.store(), name.as_str(), &options, &mut tell) {
            Ok(revision) => {
                tracing::info!(template = %name, revision, "built");
                listener.tell(&json!({ "revision": revision }));
            }
            Err(error) => {
                let text = chain(&error);
                tracing::error!(template = %name, error = text, "not built");
                listener.tell(&json!({ "error": text }));
            }
        }
    });
    Ok(reader.into())
}

/// Whoever reads the progress; forgotten at the first failure.
struct Listener(Option<File>);

impl Listener {
    fn tell(&mut self, line: &Value) {
        let Some(file) = &mut self.0 else { return };
        if file.write_all(format!("{line}\n").as_bytes()).is_err() {
            self.0 = None;
        }
    }
}

fn options(house: &House) -> Result<BuildOptions, Refusal> {
    let programs = match std::env::var_os("CASEMATE_GUEST_PROGRAMS") {
        Some(folder) => folder.into(),
        None => {
            let agent = house.paths.program("casemate-agent");
            let agent = agent.map_err(|error| Refusal::failed(format!("{error:#}")))?;
            agent.parent().map(ToOwned::to_owned).unwrap_or_default()
        }
    };
    Ok(BuildOptions {
        guest_programs: programs,
        guest_files: house.paths.shared("CASEMATE_GUEST_FILES", "guest-files"),
        recipes: house.paths.shared("CASEMATE_RECIPES", "templates"),
        cache: house.paths.cache.clone(),
    })
}
