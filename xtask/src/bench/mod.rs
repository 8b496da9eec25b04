//! `cargo xtask bench NAME`: speed that was promised, measured on this machine, and that of others beside it.
//!
//! A benchmark is a file here. It measures each kind of work several times and hands over [`Measured`]s; this file
//! takes the median and prints it, as a table with all runs or, with `--json`, as an array of [`Row`]s. Others ("peers")
//! are measured the same way on the same machine when their programs are named on the command line. Programs of ours
//! are built first, optimised, because anything else says nothing.

mod qrexec;
pub(crate) mod vmm;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::run::{cargo, succeed, target_dir};

/// How often each kind of work is measured, unless the command line says otherwise.
const RUNS: u32 = 5;

/// Measure speed: a table of medians, with peers side by side where their programs are named.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    name: Name,
    /// Print an array of rows: work, unit, ours, peers.
    #[arg(long, global = true)]
    json: bool,
    /// How often each kind of work is measured; the median counts.
    #[arg(long, global = true, default_value_t = RUNS, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

#[derive(Debug, Subcommand)]
enum Name {
    Qrexec(qrexec::Arguments),
    Vmm(vmm::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let measured = match &arguments.name {
        Name::Qrexec(own) => qrexec::run(own, arguments.runs)?,
        Name::Vmm(own) => vmm::run(own, arguments.runs)?,
    };
    if arguments.json {
        let rows: Vec<Row> = measured.iter().map(Measured::row).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", table(&measured));
        if matches!(arguments.name, Name::Vmm(_)) {
            print!("{}", vmm::verdicts(&measured));
        }
    }
    Ok(())
}

/// One kind of work, as a script reads it. The shape is a promise to the users of `--json`.
#[derive(Debug, Serialize, PartialEq)]
pub(crate) struct Row {
    /// What was done, in words joined by `-`, with the unit at the end.
    work: String,
    unit: &'static str,
    /// The median of our runs.
    ours: f64,
    /// The median of each peer that was measured.
    peers: BTreeMap<String, f64>,
}

/// One kind of work with all its runs, in the order in which they were made.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Vec<f64>,
    pub(crate) peers: BTreeMap<String, Vec<f64>>,
}

impl Measured {
    /// Does a piece of work `runs` times; `once` does it and returns the figure.
    pub(crate) fn new(
        work: &str,
        unit: &'static str,
        runs: u32,
        once: impl FnMut() -> Result<f64>,
    ) -> Result<Self> {
        eprintln!("bench: {work}, {runs} times");
        Ok(Self {
            work: work.to_owned(),
            unit,
            ours: repeat(runs, once).with_context(|| work.to_owned())?,
            peers: BTreeMap::new(),
        })
    }

    /// The same work done by somebody else's programs.
    pub(crate) fn peer(
        &mut self,
        name: &str,
        runs: u32,
        once: impl FnMut() -> Result<f64>,
    ) -> Result<()> {
        eprintln!("bench: {} by {name}, {runs} times", self.work);
        let figures = repeat(runs, once).with_context(|| format!("{} by {name}", self.work))?;
        self.peers.insert(name.to_owned(), figures);
        Ok(())
    }

    fn row(&self) -> Row {
        Row {
            work: self.work.clone(),
            unit: self.unit,
            ours: median(&self.ours),
            peers: self
                .peers
                .iter()
                .map(|(name, runs)| (name.clone(), median(runs)))
                .collect(),
        }
    }
}

fn repeat(runs: u32, mut once: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    (0..runs).map(|_| once()).collect()
}

/// The middle figure, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    if sorted.len() % 2 == 1 {
        at(half)
    } else {
        f64::midpoint(at(half.wrapping_sub(1)), at(half))
    }
}

/// The medians, and behind them every run, so that nobody has to trust a median.
fn table(measured: &[Measured]) -> String {
    let mut lines = vec![["WORK", "WHO", "MEDIAN", "UNIT", "RUNS"].map(str::to_owned)];
    for one in measured {
        let ours = ("casemate", &one.ours);
        let peers = one.peers.iter().map(|(name, runs)| (name.as_str(), runs));
        for (name, runs) in std::iter::once(ours).chain(peers) {
            let all: Vec<String> = runs.iter().copied().map(figure).collect();
            lines.push([
                one.work.clone(),
                name.to_owned(),
                figure(median(runs)),
                one.unit.to_owned(),
                all.join(" "),
            ]);
        }
    }
    let mut widths = [0; 5];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.len());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Three digits or so: more would pretend to a precision that nothing here has.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

/// Builds programs optimised, as they are used, and says where they are.
pub(crate) fn release(packages: &[&str]) -> Result<PathBuf> {
    eprintln!("bench: building {}", packages.join(", "));
    let mut command = cargo();
    command.args(["build", "--release", "--quiet"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    succeed(&mut command)?;
    Ok(target_dir().join("release"))
}

/// Where scratch files of a benchmark go: memory, so that no disk is measured.
pub(crate) fn scratch() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.context("cannot make a scratch directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_the_runs() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
        let measured = Measured {
            work: "call-overhead-ms".to_owned(),
            unit: "ms",
            ours: vec![1.5, 9.0, 1.0],
            peers: BTreeMap::from([("reference".to_owned(), vec![8.0])]),
        };
        let json = serde_json::to_value(measured.row()).expect("a row");
        let expected = serde_json::json!({
            "work": "call-overhead-ms", "unit": "ms", "ours": 1.5, "peers": {"reference": 8.0}
        });
        assert_eq!(json, expected);
        let text = table(&[measured]);
        assert!(text.contains("1.50 9.00 1.00"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
