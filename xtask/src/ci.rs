//! `cargo xtask ci`: the gate. The same command here and on a build machine.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::run::{cargo, succeed};
use crate::{test, tidy};

/// What makes the workspace's tests and lints see the lab's own tests.
pub(crate) const LAB_TESTS: &str = "casemate-lab/boots";

type Phase = (&'static str, fn() -> Result<()>);

const PHASES: [Phase; 7] = [
    ("tidy", tidy::run),
    ("fmt", || succeed(cargo().args(["fmt", "--all", "--check"]))),
    ("clippy", clippy),
    // Before the tests: those build the vmm anew as everybody has it.
    ("escape", escape),
    ("tests", test::native),
    ("doc", doc),
    ("deny", deny),
];

pub(crate) fn run() -> Result<()> {
    let mut failed = Vec::new();
    // All of them, so that one run shows all there is to do.
    for (name, phase) in PHASES {
        println!("ci: {name}");
        let began = Instant::now();
        if let Err(error) = phase() {
            println!("ci: {name} failed: {error:#}");
            failed.push(name);
        }
        println!("ci: {name} took {:.0} s", began.elapsed().as_secs_f64());
    }
    if failed.is_empty() {
        println!("ci: all is well");
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

fn clippy() -> Result<()> {
    let scope = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        LAB_TESTS,
    ];
    succeed(cargo().args(scope).args(["--", "--deny", "warnings"]))
}

/// A build of the vmm that attacks its own jail. That the build which everybody has is no such one is a test of its own
/// (`a_build_that_attacks_its_jail_can_be_told_from_one_that_is_shipped`), and a release build of it is an error.
fn escape() -> Result<()> {
    let scope = ["--package", "casemate-vmm", "--features", "escape-probe"];
    succeed(
        cargo()
            .arg("clippy")
            .args(scope)
            .args(["--all-targets", "--", "--deny", "warnings"]),
    )?;
    succeed(
        cargo()
            .arg("test")
            .args(scope)
            .args(["--test", "boot", "--", "escape::", "jail::"]),
    )
}

fn doc() -> Result<()> {
    let mut command = cargo();
    command.args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    succeed(command.env("RUSTDOCFLAGS", "--deny warnings"))
}

fn deny() -> Result<()> {
    let present = Command::new("cargo-deny").arg("--version").output().is_ok();
    if !present {
        println!("ci: deny is skipped, cargo-deny is not installed");
        return Ok(());
    }
    succeed(cargo().args(["deny", "check"]))
}
