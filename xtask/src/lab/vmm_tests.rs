//! The vmm's own tests, in a lab: the same programs that run on this machine's KVM, which may be a slow imitation of it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use casemate_lab::wire::Exit;
use casemate_lab::{Lab, Options};

use crate::run::{build_lab_guest, cargo, target_dir};

/// Test programs, by the names of their files in the crate's `tests` folder.
const TESTS: [&str; 1] = ["hostile"];
/// How long one program may take: four times what it needs on an idle machine, and more.
const LIMIT: Duration = Duration::from_secs(900);

/// Builds the tests, boots a lab and runs them in it, one after the other. All are run, whatever fails.
pub(crate) fn vmm_tests() -> Result<()> {
    let image = super::build()?;
    let folder = tempfile::tempdir()?;
    let bin = folder.path().join("bin");
    fs::create_dir(&bin)?;
    for (name, program) in test_programs()? {
        fs::copy(program, bin.join(name))?;
    }
    fs::copy(
        target_dir().join("debug/casemate-vmm"),
        bin.join("casemate-vmm"),
    )?;
    let options = Options {
        share: Some(folder.path().to_owned()),
        guest_program: Some(build_lab_guest()?),
        ..Options::default()
    };
    let lab = Lab::start_image(&image, &options)?;
    let mut failed = Vec::new();
    for name in TESTS {
        let words = ["--test-threads", "1", "--nocapture"];
        let argv: Vec<&str> = [name].into_iter().chain(words).collect();
        let process = lab
            .command("user", &argv)
            .env("CASEMATE_VMM", "/payload/bin/casemate-vmm")
            .spawn()?;
        let output = process.wait(LIMIT)?;
        print!("{}{}", output.text(), output.errors());
        // A lab without KVM would test nothing.
        if output.exit != Exit::Code(0) || output.text().contains("skipped: /dev/kvm") {
            failed.push(name);
        }
    }
    lab.shut_down()?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed in the lab: {}", failed.join(", "))
}

/// The test programs, as cargo names them.
fn test_programs() -> Result<Vec<(&'static str, PathBuf)>> {
    let mut command = cargo();
    command.args(["test", "--package", "casemate-vmm", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.args(TESTS.iter().flat_map(|name| ["--test", name]));
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the vmm's tests cannot be built ({})", output.status);
    }
    let text = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    let mut found = Vec::new();
    for line in text.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let program = message["executable"].as_str();
        let test = TESTS.iter().find(|test| **test == name);
        if let (Some(test), Some(program)) = (test, program) {
            found.push((*test, PathBuf::from(program)));
        }
    }
    if found.len() != TESTS.len() {
        bail!("cargo built {found:?} instead of {TESTS:?}");
    }
    Ok(found)
}
