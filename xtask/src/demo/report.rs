//! What the demo shows of itself: a line per step while it runs, a table at its end, `summary.json` and
//! pictures for later.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Time between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// One finished step.
#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    /// Left to the person: neither good nor bad.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    not_tried: bool,
    seconds: f64,
    /// What shows that it is so, or why it is not.
    evidence: String,
}

/// All steps so far, and the folder that holds what they leave.
#[derive(Debug)]
pub(super) struct Report {
    folder: PathBuf,
    total: usize,
    steps: Vec<Step>,
    pictures: Vec<String>,
}

impl Report {
    /// An empty report in `folder`, which is emptied of an earlier one.
    pub(super) fn new(folder: &Path, total: usize) -> Result<Self> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
            }
            _ => fs::create_dir_all(folder)?,
        }
        Ok(Self {
            folder: folder.to_owned(),
            total,
            steps: Vec::new(),
            pictures: Vec::new(),
        })
    }

    /// Runs a step, shows and records how it went; says whether it went well.
    pub(super) fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Self) -> Result<String>,
    ) -> bool {
        let number = self.steps.len() + 1;
        let spinner = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        spinner.set_message(format!("{number:2}/{} {name}", self.total));
        spinner.enable_steady_tick(TICK);
        if !std::io::stderr().is_terminal() {
            // Where nobody sees a spinner turn, a line tells what takes so long.
            println!("{number:2}/{} ...                 {name}", self.total);
        }
        let began = Instant::now();
        let result = work(self);
        spinner.finish_and_clear();
        let seconds = began.elapsed().as_secs_f64();
        let ok = result.is_ok();
        let evidence = result.unwrap_or_else(|error| format!("{error:#}"));
        let mark = if ok { "ok    " } else { "FAILED" };
        println!(
            "{number:2}/{} {mark} {seconds:7.1} s  {name}: {evidence}",
            self.total
        );
        self.steps.push(Step {
            name,
            ok,
            not_tried: false,
            seconds,
            evidence,
        });
        ok
    }

    /// Forgets the steps after the first `kept` ones, which are done anew.
    pub(super) fn forget_after(&mut self, kept: usize) {
        self.steps.truncate(kept);
    }

    /// Names a step that was not tried.
    pub(super) fn not_reached(&mut self, name: &'static str) {
        self.steps.push(Step {
            name,
            ok: false,
            not_tried: false,
            seconds: 0.0,
            evidence: "not reached: a step that it needs failed".to_owned(),
        });
    }

    /// Names a step that only a person can do.
    pub(super) fn not_tried(&mut self, name: &'static str) {
        let evidence = "not tried: input comes from the person".to_owned();
        let number = self.steps.len() + 1;
        println!(
            "{number:2}/{} --                  {name}: {evidence}",
            self.total
        );
        self.steps.push(Step {
            name,
            ok: false,
            not_tried: true,
            seconds: 0.0,
            evidence,
        });
    }

    /// Where a picture called `name` goes; it is then part of the report.
    pub(super) fn picture(&mut self, name: &str) -> PathBuf {
        let file = format!("{name}.png");
        let path = self.folder.join(&file);
        if !self.pictures.contains(&file) {
            self.pictures.push(file);
        }
        path
    }

    /// The folder of everything that the demo leaves.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the summary, prints the table, and says whether all that was tried went well.
    pub(super) fn finish(&self) -> Result<bool> {
        let path = self.folder.join("summary.json");
        fs::write(&path, serde_json::to_string_pretty(&self.steps)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("\n{}", self.table());
        println!("{}", path.display());
        for picture in &self.pictures {
            println!("{}", self.folder.join(picture).display());
        }
        Ok(self.steps.iter().all(|step| step.ok || step.not_tried))
    }

    fn table(&self) -> String {
        let names = self.steps.iter().map(|step| step.name);
        let width = names.map(str::len).max().unwrap_or_default();
        let mut table = String::new();
        for step in &self.steps {
            let mark = match (step.ok, step.not_tried) {
                (true, _) => "ok",
                (false, true) => "--",
                (false, false) => "FAILED",
            };
            table.push_str(&format!(
                "{:width$}  {mark:6}  {:7.1} s\n",
                step.name, step.seconds
            ));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_and_one_not_reached_are_both_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new(&folder.path().join("demo"), 3).unwrap();
        assert!(report.step("first", |report| {
            fs::write(report.picture("seen"), "")?;
            Ok("went well".to_owned())
        }));
        assert!(!report.step("second", |_| anyhow::bail!("no such thing")));
        report.not_reached("third");
        assert!(!report.finish().unwrap());
        let text = fs::read_to_string(report.folder().join("summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(summary.as_array().unwrap().len(), 3);
        assert_eq!(summary[0]["ok"], true);
        assert_eq!(summary[1]["evidence"], "no such thing");
        assert_eq!(
            (&summary[2]["name"], &summary[2]["ok"]),
            (&"third".into(), &false.into())
        );
        assert!(report.folder().join("seen.png").exists());
    }

    #[test]
    fn steps_that_are_done_anew_are_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new(folder.path(), 2).unwrap();
        report.step("first", |_| Ok(String::new()));
        report.step("second", |_| anyhow::bail!("the lab ended"));
        report.forget_after(1);
        report.step("second", |_| Ok(String::new()));
        assert!(report.finish().unwrap());
        assert_eq!(report.steps.len(), 2);
    }

    #[test]
    fn all_well_is_well() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new(folder.path(), 2).unwrap();
        report.step("first", |_| Ok(String::new()));
        report.not_tried("left to the person");
        assert!(report.finish().unwrap());
    }
}
