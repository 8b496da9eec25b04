//! The programs as a person would install them: `bin/` and `share/casemate/` in one folder, built from
//! this checkout. The lab sees the folder as `/payload`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{cargo, root, standalone, succeed, target_dir};

/// Packages of our programs, and the program of each.
const PROGRAMS: [(&str, &str); 6] = [
    ("casemated", "casemated"),
    ("casemate-cli", "casemate"),
    ("casemate-compositor", "casemate-compositor"),
    ("casemate-sound", "casemate-sound"),
    ("casemate-agent", "casemate-agent"),
    ("casemate-windows", "casemate-windows"),
];

/// Those that start for each VM or each call: alone, so that a start is short.
const ALONE: [&str; 2] = ["casemate-vmm", "casemate-qrexec"];

/// Folders of the checkout that are shipped as data, and under what name.
const DATA: [(&str, &str); 3] = [
    ("policy/rules", "policy.d"),
    ("guest-agent/guest-files", "guest-files"),
    ("templates", "templates"),
];

/// Builds everything and lays it out in `folder`, which is emptied first.
pub(super) fn lay_out(folder: &Path) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--quiet"]);
    for (package, _) in PROGRAMS {
        build.args(["--package", package]);
    }
    succeed(&mut build)?;
    let alone = ALONE
        .map(|program| standalone(program, program))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let bin = folder.join("bin");
    let share = folder.join("share/casemate");
    fs::create_dir_all(&bin)?;
    let shared = target_dir().join("release");
    let shared = PROGRAMS.map(|(_, program)| shared.join(program));
    for source in shared.iter().chain(&alone) {
        let name = source.file_name().context("a program has a name")?;
        fs::copy(source, bin.join(name))
            .with_context(|| format!("cannot copy {}", source.display()))?;
    }
    for (source, target) in DATA {
        copy_tree(&root().join(source), &share.join(target))?;
    }
    Ok(())
}

/// Every file below `folder`, sorted, for a digest of it all.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in
            fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn copy_tree(source: &Path, target: &Path) -> Result<()> {
    for file in files(source)? {
        let place = target.join(file.strip_prefix(source)?);
        fs::create_dir_all(place.parent().context("a file has a folder")?)?;
        fs::copy(&file, &place).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}
