//! `lab-vms`: starts VMs inside the lab, as root but with the monitors as the ordinary user. `lab-vms bench PLAN`
//! prints a figure a line, as JSON; `lab-vms soak PLAN BOOTS RESTORES` boots again and again.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "standard output is its result"
)]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use casemate_lab_vms::plan::{Figure, Plan};
use casemate_lab_vms::{bench, soak};

/// The lab's ordinary user.
const USER: u32 = 1000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-vms: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let account = rustix::process::geteuid().is_root().then_some((USER, USER));
    match words.as_slice() {
        ["bench", plan] => bench::run(&read(plan)?, account, &mut say),
        ["soak", plan, boots, restores] => {
            let mut progress = |line: &str| println!("{line}");
            let summary = soak::run(
                &read(plan)?,
                boots.parse()?,
                restores.parse()?,
                account,
                &mut progress,
            )?;
            println!(
                "{} were good, {} failed",
                summary.good,
                summary.failures.len()
            );
            if !summary.failures.is_empty() {
                bail!("{}", summary.failures.join("\n"));
            }
            Ok(())
        }
        _ => bail!("usage: lab-vms bench PLAN | soak PLAN BOOTS RESTORES"),
    }
}

fn read(plan: &str) -> Result<Plan> {
    let text = std::fs::read(plan).with_context(|| format!("cannot read {plan}"))?;
    Ok(serde_json::from_slice(&text)?)
}

fn say(figure: &Figure) {
    let text = serde_json::to_string(figure).unwrap_or_default();
    println!("{text}");
    let _ = std::io::stdout().flush();
}
