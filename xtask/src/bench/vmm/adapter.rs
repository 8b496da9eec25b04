//! A monitor that a person names in a file: a [`Peer`], with a program of this machine instead of the lab's, and a list
//! of more files that it needs. docs/benchmarks.md describes the format.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use casemate_lab_vms::plan::Peer;
use serde::Deserialize;

/// The file. Unknown keys are errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adapter {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    #[serde(default)]
    files: Vec<PathBuf>,
    config: Option<String>,
    #[serde(default)]
    network: Vec<String>,
    console: Option<String>,
}

/// Reads an adapter, and copies the program, its libraries and its files to `payload/peers/NAME`.
pub(super) fn load(file: &Path, payload: &Path) -> Result<Peer> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let here = file.parent().unwrap_or(Path::new("."));
    place(&text, here, payload).with_context(|| file.display().to_string())
}

fn place(text: &str, here: &Path, payload: &Path) -> Result<Peer> {
    let adapter: Adapter = toml::from_str(text)?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if adapter.name.is_empty() || adapter.name.starts_with('.') || !adapter.name.chars().all(plain)
    {
        bail!(
            "the name {:?} is not of letters, digits and -_.",
            adapter.name
        );
    }
    let relative = Path::new("peers").join(&adapter.name);
    let folder = payload.join(&relative);
    fs::create_dir_all(&folder)?;
    let copy = |path: &Path| -> Result<PathBuf> {
        let path = here.join(path);
        let name = path.file_name().context("it names no file")?;
        fs::copy(&path, folder.join(name))
            .with_context(|| format!("cannot copy {}", path.display()))?;
        Ok(relative.join(name))
    };
    let program = copy(&adapter.program)?;
    for file in &adapter.files {
        copy(file)?;
    }
    super::payload::libraries(&here.join(&adapter.program), &folder.join("lib"))?;
    Ok(Peer {
        program,
        arguments: adapter.arguments,
        config: adapter.config,
        network: adapter.network,
        console: adapter
            .console
            .unwrap_or_else(|| "console=ttyS0".to_owned()),
        libraries: Some(relative.join("lib")),
        name: adapter.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_read_and_its_files_are_taken_along() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("monitor"), "#!/bin/sh\n").unwrap();
        let text =
            "name = \"other\"\nprogram = \"monitor\"\narguments = [\"--kernel\", \"{kernel}\"]\n";
        let payload = folder.path().join("payload");
        let peer = place(text, folder.path(), &payload).unwrap();
        assert_eq!(peer.program, Path::new("peers/other/monitor"));
        assert_eq!(peer.console, "console=ttyS0");
        assert!(payload.join(peer.program).exists());
        for (from, to, expected) in [
            ("other", "../x", "is not of letters"),
            ("monitor\"", "absent\"", "cannot copy"),
            ("arguments", "parameters", "unknown field"),
        ] {
            let error = place(&text.replace(from, to), folder.path(), &payload).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
