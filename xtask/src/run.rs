//! Running other programs from a task: cargo above all.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The folder of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end, its output going where ours goes.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    if status.success() {
        return Ok(());
    }
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    bail!("{name} {} failed ({status})", words.join(" "))
}

/// The folder that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds a program that is linked as a whole and without a library of the system, and says where it is: the monitor and
/// the broker, which is also its client, as a person installs them: they start often and would have to look for libraries
/// and relocate them each time; and a guest's program that is alone in its initrd.
pub(crate) fn standalone(package: &str, program: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["rustc", "--profile", "dist", "--quiet"]);
    command.args(["--package", package, "--bin", program, "--"]);
    command.args(["-C", "target-feature=+crt-static"]);
    command.args(["-C", "link-arg=-Wl,-z,pack-relative-relocs"]);
    succeed(&mut command)?;
    Ok(target_dir().join("dist").join(program))
}

/// Builds the program that serves commands inside the lab, and says where it is.
pub(crate) fn build_lab_guest() -> Result<PathBuf> {
    succeed(cargo().args([
        "build",
        "--quiet",
        "--package",
        "casemate-lab",
        "--bin",
        "lab-guest",
    ]))?;
    Ok(target_dir().join("debug/lab-guest"))
}
