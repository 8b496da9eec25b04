//! `qubes.OpenInVM`: one file in, shown by the program for its type, gone when that program ends.
//!
//! The file comes as a file copy stream with one entry. Thin: it is view-only, changes are not sent back.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use casemate_filecopy::Rules;

use super::{
    filecopy::{self, status::Status},
    session,
};

/// Receives the file, opens it, waits.
pub(crate) fn run() -> anyhow::Result<u8> {
    let dir = private_directory()?;
    let result = receive_and_open(&dir);
    // The VM may live on; the stranger's file does not.
    if let Err(error) = fs::remove_dir_all(&dir) {
        tracing::warn!(dir = %dir.display(), %error, "a received file could not be removed");
    }
    result
}

fn receive_and_open(dir: &Path) -> anyhow::Result<u8> {
    let rules = Rules {
        one_file: true,
        ..Rules::default()
    };
    let source = env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    let status = filecopy::into(dir, &rules, &mut Status::new(&source, dir))?;
    if status != 0 {
        return Ok(status);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .context("cannot list what came")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let (Some(file), true) = (files.pop(), files.is_empty()) else {
        bail!("exactly one file can be opened at a time");
    };
    session::wait();
    let (program, arguments) = viewer(&file);
    let status = Command::new(program)
        .args(arguments)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

/// The program for a file, by the end of its name.
fn viewer(file: &Path) -> (&'static str, &'static [&'static str]) {
    match file
        .extension()
        .and_then(|extension| extension.to_str())
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        Some("pdf" | "ps" | "djvu") => ("zathura", &[]),
        _ => ("foot", &["less", "--"]),
    }
}

fn private_directory() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let dir = base.join(format!("casemate-open-{}", std::process::id()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers() {
        assert_eq!(viewer(Path::new("a/report.PDF")).0, "zathura");
        assert_eq!(viewer(Path::new("notes.txt")).0, "foot");
        assert_eq!(viewer(Path::new("pdf")).0, "foot");
    }
}
