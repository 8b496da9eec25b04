//! `cargo xtask demo`: the main job of Casemate, told in steps: a template, two
//! VMs, their windows, a file that crosses with a person's leave, a disposable, a supervisor that is
//! killed. It runs on this machine when that has KVM, else in a lab. It leaves a summary and pictures; nothing of it is faked.

mod house;
mod native;
mod pdf;
mod prefix;
mod report;
mod stage;
mod store;
mod story;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use casemate_lab::Lab;
use clap::Args;

use crate::run::target_dir;
use crate::setup;
use house::House;
use report::Report;
use stage::Stage;

/// Run the main job end to end and show what happened: on this machine when it has KVM, else in the lab.
#[derive(Debug, Default, Args)]
pub(crate) struct Arguments {
    /// Where the summary and the pictures go.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stop after the first step that fails.
    #[arg(long)]
    fail_fast: bool,
    /// Instead of the whole story: start disposables with and without a warm image.
    #[arg(long)]
    warm: bool,
    /// Run in the lab even where this machine has KVM.
    #[arg(long, conflicts_with_all = ["native", "window"])]
    lab: bool,
    /// Run on this machine, whatever its processor says.
    #[arg(long)]
    native: bool,
    /// On this machine, show Casemate in a window of the desktop; steps that need keys and clicks are yours.
    #[arg(long)]
    window: bool,
}

/// What the steps hand on to each other.
#[derive(Debug)]
struct Story {
    stage: Stage,
    /// Folder of programs and data, `/payload` in the lab.
    prefix: PathBuf,
    /// Image with the template store.
    store: Option<PathBuf>,
    lab: Option<Lab>,
}

impl Story {
    fn house(&self) -> Result<House<'_>> {
        Ok(House {
            lab: self.lab.as_ref().context("the lab is not up")?,
        })
    }
}

/// One step: what it shows, whether the rest needs it, and how.
struct Step {
    name: &'static str,
    essential: bool,
    /// Whether it needs keys and clicks.
    hands: bool,
    work: Work,
}

/// What a step does, and says when it has shown it.
type Work = fn(&mut Story, &mut Report) -> Result<String>;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::missing()?.is_empty() {
        setup::run(&setup::Arguments::default())?;
    }
    Ok(if tell(arguments)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The demo as a test: the same story in the lab, which must go well to its end.
pub(crate) fn as_test() -> Result<()> {
    if tell(&Arguments {
        lab: true,
        ..Arguments::default()
    })? {
        return Ok(());
    }
    bail!("a step of the demo failed; see its table")
}

/// Tells the story; whether every step went well.
fn tell(arguments: &Arguments) -> Result<bool> {
    let folder = arguments
        .out
        .clone()
        .unwrap_or_else(|| target_dir().join("demo"));
    let stage = Stage::choose(arguments)?;
    let _alone = alone()?;
    let steps = if arguments.warm {
        story::warm_steps(stage)
    } else {
        story::steps(stage)
    };
    let mut report = Report::new(&folder, steps.len())?;
    let mut story = Story {
        stage,
        prefix: target_dir().join("demo-prefix"),
        store: None,
        lab: None,
    };
    let mut stopped = false;
    // The step that boots the lab, and whether the story may go back to it: once.
    let (mut boot, mut may_go_back) = (None, true);
    let mut next = 0;
    while let Some(step) = steps.get(next) {
        let this = next;
        next += 1;
        if stopped {
            report.not_reached(step.name);
            continue;
        }
        if step.hands && stage == Stage::Window {
            report.not_tried(step.name);
            continue;
        }
        let ok = report.step(step.name, |report| (step.work)(&mut story, report));
        if boot.is_none() && story.lab.is_some() {
            boot = Some(this);
        }
        if ok {
            continue;
        }
        if may_go_back
            && let Some(first) = boot
            && let Some(place) = story.lab.as_ref().and_then(Lab::gave_up)
        {
            println!(
                "the lab's own kernel gave up ({place}), which is the emulator's fault; the story goes on from the boot of the lab"
            );
            may_go_back = false;
            story.lab = None;
            report.forget_after(first);
            next = first;
            continue;
        }
        leave_traces(&story, &mut report, step.name);
        stopped = step.essential || arguments.fail_fast;
    }
    report.finish()
}

/// Two demos of one checkout would lay out their programs in the same folder.
fn alone() -> Result<File> {
    std::fs::create_dir_all(target_dir())?;
    let lock = File::create(target_dir().join("demo.lock"))?;
    if lock.try_lock().is_err() {
        bail!("another demo of this checkout is running; wait for its end");
    }
    Ok(lock)
}

/// What helps to understand a failed step: the screen, and Casemate's own logs.
fn leave_traces(story: &Story, report: &mut Report, step: &str) {
    let Ok(house) = story.house() else {
        return;
    };
    let name: String = step
        .chars()
        .map(|letter| {
            if letter.is_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    let path = report.picture(&format!("failed-{name}"));
    if let Err(error) = house.picture(&path) {
        println!("      no picture of it: {error:#}");
    }
    let logs = "cd ~/.local/state/casemate/logs && for file in *; do echo \"== $file\"; tail -c 20000 \"$file\"; done";
    if let Ok(output) = house.lab.run("user", &["sh", "-c", logs]) {
        // Where only what was printed is kept, the last words of each still tell something.
        for line in last_lines(&output.text()) {
            // A VM's console is among them.
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            println!("      | {line}");
        }
        let path = report.folder().join(format!("failed-{name}.log"));
        match std::fs::write(&path, output.stdout) {
            Ok(()) => println!("      logs: {}", path.display()),
            Err(error) => println!("      no logs: {error}"),
        }
    }
}

/// The last lines of each log, as [`leave_traces`] has them.
fn last_lines(logs: &str) -> Vec<&str> {
    /// Lines of one log.
    const LINES: usize = 15;
    let mut all = Vec::new();
    for log in logs.split("\n== ") {
        let lines: Vec<&str> = log.lines().collect();
        let (title, rest) = lines
            .split_first()
            .map_or(("", &[][..]), |(title, rest)| (*title, rest));
        all.push(title);
        all.extend(&rest[rest.len().saturating_sub(LINES)..]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_log_the_end_is_shown() {
        let long: String = (0..40).map(|line| format!("{line}\n")).collect();
        let logs = format!("== one\n{long}== two\nlast\n");
        let shown = last_lines(&logs);
        assert_eq!(shown.first(), Some(&"== one"));
        assert_eq!(shown.get(1), Some(&"25"));
        assert_eq!(shown.get(15..), Some(&["39", "two", "last"][..]));
        assert_eq!(last_lines(""), [""]);
    }
}
