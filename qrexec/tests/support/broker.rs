//! The broker alone, as its tests start it.

use std::{path::Path, process::Command};

/// Serves work, number 3, and vault, number 4, by sockets in `dir`, where policy and facts lie too.
pub(crate) fn broker(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-qrexec"));
    command
        .args(["serve-vchan", "--vm", "work:3", "--vm", "vault:4"])
        .arg("--vchan-dir")
        .arg(dir)
        .arg("--policy-dir")
        .arg(dir.join("policy"))
        .arg("--facts")
        .arg(dir.join("facts.json"));
    command
}
