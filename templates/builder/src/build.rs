//! The build of one revision, phase by phase.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use casemate_storage::{Manifest, Store};
use casemate_vm::VmName;

use crate::{
    BuildError, InitrdSpec, Recipe,
    assemble::{Parts, root_image},
    base::base_system,
    fetch_kernel, guest_files, write_initrd,
};

const INIT: &str = include_str!("init.sh");

/// Where a build finds its inputs.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Folder of our guest programs (`casemate-agent`, `casemate-windows`).
    pub guest_programs: PathBuf,
    /// Folder of our guest files with their `install.toml`.
    pub guest_files: PathBuf,
    /// Folder of recipes, one folder each.
    pub recipes: PathBuf,
    /// Where base systems and kernels are kept between builds.
    pub cache: PathBuf,
}

/// Where a build is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What is being done, in a few words.
    pub phase: String,
    /// How much of the whole is done, 0 to 1, when that is known.
    pub fraction: Option<f64>,
}

/// Builds a new revision of the template `name` and makes it current; returns its number.
///
/// # Errors
/// Whatever a recipe, a tool or the store had against it; the template is unchanged then.
pub fn build(
    store: &Store,
    name: &str,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<u32, BuildError> {
    let template: VmName = name
        .parse()
        .map_err(|error| BuildError::Name(name.to_owned(), error))?;
    let recipe = Recipe::load(&options.recipes, &template)?;
    let staging = store.stage(&template)?;
    let work = staging.dir().to_owned();

    let mut at = |phase: &str, fraction: f64| {
        progress(Progress {
            phase: phase.to_owned(),
            fraction: Some(fraction),
        });
    };
    at("fetching the kernel", 0.0);
    let kernel = fetch_kernel(&options.cache)?;
    at("making the base system", 0.05);
    let base = base_system(&recipe, &options.cache, &mut |line| {
        if let Some(step) = line.strip_prefix("I: ") {
            at(&format!("making the base system: {step}"), 0.05);
        }
    })?;
    at("adding Casemate's own files", 0.75);
    let ours = work.join("ours");
    make(&ours)?;
    guest_files::lay_out(&options.guest_files, &options.guest_programs, &ours)?;
    guest_files::mask(&recipe.mask, &ours)?;
    at("writing the initrd", 0.78);
    let spec = InitrdSpec {
        version_dir: &kernel.modules_dir,
        modules: &recipe.initrd_modules,
        init: INIT,
    };
    write_initrd(spec, &work, &work.join("initrd"))?;
    crate::sparse::copy(&kernel.vmlinux, &work.join("vmlinux"))
        .map_err(BuildError::io("cannot copy the kernel"))?;
    at("writing the root image", 0.8);
    let parts = Parts {
        base: &base,
        ours: &ours,
        modules: &kernel.modules_dir,
        size_mib: recipe.size_mib,
    };
    let packages = root_image(&parts, &work, &work.join("root.img"))?;
    at("sealing the revision", 0.95);
    let parent = store
        .revision(&template)
        .ok()
        .map(|revision| revision.number);
    let manifest = Manifest {
        revision: staging.number(),
        parent,
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        kernel: kernel.version,
        cmdline: recipe.cmdline,
        files: std::collections::BTreeMap::new(),
        packages,
    };
    Ok(staging.commit(manifest)?.number)
}

fn make(dir: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(dir).map_err(BuildError::io(format!("cannot make {}", dir.display())))
}
