//! Casemate on this machine, apart from the person's own: a home below the build folder that is made anew
//! for each demo, but for the template, which is kept as long as what it is made of stays the same.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use casemate_lab::{Here, Lab};

use super::stage::Stage;
use super::{house, store};
use crate::run::{build_lab_guest, target_dir};

/// Names what the template was made of. Written when it is complete.
const KEY: &str = "template.key";
/// Where the store keeps templates, and nothing else.
const TEMPLATES: &str = ".local/share/casemate/templates";

/// The home of the demo.
pub(super) fn home() -> PathBuf {
    target_dir().join("demo-home")
}

/// Empties the home and sees to a template for the programs in `prefix`; says how it came to be.
pub(super) fn template(prefix: &Path) -> Result<String> {
    let home = home();
    let key = store::key(prefix)?;
    let templates = home.join(TEMPLATES);
    let kept = fs::read_to_string(home.join(KEY)).is_ok_and(|made_of| made_of == key);
    let aside = target_dir().join("demo-templates");
    remove(&aside)?;
    if kept {
        fs::rename(&templates, &aside).context("cannot set the template aside")?;
    }
    remove(&home)?;
    fs::create_dir_all(&home)?;
    let how = if kept {
        fs::create_dir_all(templates.parent().unwrap_or(&home))?;
        fs::rename(&aside, &templates)?;
        "unchanged since it was built, taken from the last demo".to_owned()
    } else {
        store::build_template(prefix, &home)?
    };
    fs::write(home.join(KEY), key)?;
    Ok(how)
}

/// Starts what runs commands on this machine, for the programs in `prefix`.
pub(super) fn start(prefix: &Path, stage: Stage) -> Result<Lab> {
    let home = home();
    let settings = house::settings(stage);
    let place = home.join(house::SETTINGS);
    fs::create_dir_all(place.parent().unwrap_or(&home))?;
    fs::write(&place, settings).with_context(|| format!("cannot write {}", place.display()))?;
    Lab::start_here(&Here {
        home,
        programs: prefix.join("bin"),
        // A build machine may have no other account; the person's own Casemate still refuses root.
        environment: vec![("CASEMATE_ALLOW_ROOT".to_owned(), "1".to_owned())],
        guest_program: Some(build_lab_guest()?),
    })
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
