//! The monitor's tests with a distribution's own kernels, run in a lab: `cargo xtask test` does it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use casemate_lab::wire::Exit;
use casemate_lab::{Lab, Options, image};

use crate::run::{build_lab_guest, cargo, root, succeed, target_dir};

/// What the guest's init needs. Its own drivers are built in but for these.
const MODULES: [&str; 1] = ["virtio_blk"];

/// Four times what it takes on an idle machine without hardware virtualization.
const LIMIT: Duration = Duration::from_secs(900);

/// Builds the tests and the monitor, boots a lab, and runs them there as the ordinary user.
pub(crate) fn run() -> Result<()> {
    let payload = tempfile::tempdir()?;
    lay_out(payload.path())?;
    let lab = Lab::start(&Options {
        share: Some(payload.path().to_owned()),
        guest_program: Some(build_lab_guest()?),
        ..Options::default()
    })?;
    let test = lab
        .command("user", &["stock", "--test-threads", "1"])
        .env("CASEMATE_STOCK", "/payload/stock")
        .env("CASEMATE_VMM", "/payload/bin/casemate-vmm")
        .spawn()?;
    let output = test.wait(LIMIT)?;
    print!("{}{}", output.text(), output.errors());
    if output.exit != Exit::Code(0) {
        bail!(
            "the tests with stock kernels failed in the lab: {:?}",
            output.exit
        );
    }
    if output.text().contains("skipped") {
        bail!("a test with stock kernels was skipped in the lab");
    }
    lab.shut_down()
}

fn lay_out(payload: &Path) -> Result<()> {
    let (bin, stock) = (payload.join("bin"), payload.join("stock"));
    for folder in [&bin, &stock] {
        fs::create_dir_all(folder)?;
    }
    succeed(cargo().args(["build", "--release", "--quiet", "--package", "casemate-vmm"]))?;
    fs::copy(
        target_dir().join("release/casemate-vmm"),
        bin.join("casemate-vmm"),
    )?;
    fs::copy(test_program()?, bin.join("stock"))?;
    let init = fs::read_to_string(root().join("supervisor/vmm/tests/stock/init.sh"))?;
    image::lay_out_kernel(&init, &MODULES, &stock)?;
    // The lab's ordinary user reads it.
    for path in [payload, &stock] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    for file in ["vmlinux", "vmlinuz", "initrd"] {
        fs::set_permissions(stock.join(file), fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Builds the tests and says where their program is.
fn test_program() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--package", "casemate-vmm"]);
    command.args(["--test", "stock", "--message-format", "json"]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the tests of casemate-vmm do not build");
    }
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "stock")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no test program")
}
