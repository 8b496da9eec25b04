//! `cargo xtask test`: everything that can be tested here: the gate with all native tests, then the lab.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::ci::{self, LAB_TESTS};
use crate::run::{cargo, succeed};
use crate::{demo, fuzz, lab, setup};

/// Boots and restores, a few for each number of vCPUs: that they work. That they work each time is for
/// `cargo xtask lab soak`.
const BOOTS: u32 = 3;
const RESTORES: u32 = 12;

/// Run the gate with all native tests and the seeds of the fuzz targets, then the tests that boot the lab: its own, the
/// monitor's with hostile guests, stock kernels and host devices, some boots and restores, the demo's story last.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Leave out the tests that boot the lab.
    #[arg(long)]
    no_lab: bool,
    /// Only the tests that boot the lab.
    #[arg(long, conflicts_with = "no_lab")]
    only_lab: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut failed = Vec::new();
    let mut phase = |name: &'static str, work: &dyn Fn() -> Result<()>| {
        println!("test: {name}");
        let began = Instant::now();
        let result = work();
        if let Err(error) = &result {
            println!("test: {name} failed: {error:#}");
            failed.push(name);
        }
        println!("test: {name} took {:.0} s", began.elapsed().as_secs_f64());
    };
    if !setup::missing()?.is_empty() {
        phase("packages", &|| setup::run(&setup::Arguments::default()));
    }
    if !arguments.only_lab {
        phase("gate", &ci::run);
        phase("seeds of the fuzz targets", &fuzz::replay);
    }
    if !arguments.no_lab {
        phase("lab image", &|| lab::build().map(drop));
        phase("lab tests", &in_lab);
        phase("the monitor in the lab", &lab::vmm_tests);
        phase("stock kernels and host devices in the lab", &lab::stock);
        phase("boots and restores in the lab", &|| {
            lab::soak(BOOTS, RESTORES)
        });
        phase("the whole story in the lab", &demo::as_test);
    }
    if failed.is_empty() {
        println!("test: all passed");
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

/// The tests of the workspace that need no lab.
pub(crate) fn native() -> Result<()> {
    let mut command = cargo();
    if nextest() {
        succeed(command.args(["nextest", "run", "--workspace", "--no-fail-fast"]))?;
        // nextest leaves out the examples in documentation.
        return succeed(cargo().args(["test", "--workspace", "--doc", "--quiet"]));
    }
    succeed(command.args(["test", "--workspace", "--no-fail-fast"]))
}

/// The tests that boot the lab, one after the other: each lab wants all processors of a small machine.
fn in_lab() -> Result<()> {
    let scope = [
        "--package",
        "casemate-lab",
        "--features",
        LAB_TESTS,
        "--test",
        "*",
    ];
    if nextest() {
        return succeed(
            cargo()
                .args(["nextest", "run", "--no-fail-fast", "--test-threads", "1"])
                .args(scope),
        );
    }
    succeed(cargo().args(["test", "--no-fail-fast"]).args(scope).args([
        "--",
        "--test-threads",
        "1",
    ]))
}

fn nextest() -> bool {
    Command::new("cargo-nextest")
        .arg("--version")
        .output()
        .is_ok()
}
