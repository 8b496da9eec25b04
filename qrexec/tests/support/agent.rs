//! The agent's program, for tests of both ends.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The agent beside the broker; built when only this package was.
pub(crate) fn agent_program() -> PathBuf {
    let broker = Path::new(env!("CARGO_BIN_EXE_casemate-qrexec"));
    let agent = broker.with_file_name("casemate-agent");
    if !agent.exists() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["build", "--quiet", "--package", "casemate-agent"]);
        assert!(cargo.status().unwrap().success());
    }
    agent
}
