//! Disposables that go on from a warm image, beside one that boots: how long each takes, and that each is a VM of its own.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use casemate_lab::wire::Exit;

use super::windows::{close, framed, raise};
use crate::demo::house::{self, House, LONG, SHORT};
use crate::demo::report::Report;
use crate::demo::{Story, pdf};

/// Colour of disposables.
const DISPOSABLE: &str = "red";
/// Fewer pixels of the page's bar than this are no page.
const BAR_PIXELS: usize = 3000;
/// How far a VM's clock may be from the host's: what the call itself takes under emulation.
const CLOCK: u64 = 20;
/// Disposables that go on from the image.
const WARM: usize = 2;

/// What a disposable says of itself.
const WHO: &str =
    "hostname; cat /etc/machine-id; date +%s; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'";

struct Who {
    name: String,
    machine: String,
    random: String,
    seconds: f64,
}

/// Switches warm images on, before there is a supervisor.
pub(super) fn switch_on(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let settings = format!(
        "{}\n[disposables]\nwarm = true\n",
        house::settings(story.stage)
    );
    house.put(house::SETTINGS, settings.as_bytes())?;
    Ok("`warm = true` below [disposables]".to_owned())
}

pub(super) fn told_apart(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let cold = who(&house)?;
    let began = Instant::now();
    let size = house.until("a warm image", LONG, || {
        let find = "cd ~/.local/share/casemate/warm && ls */image.json && du -sm .";
        let output = house.lab.run("user", &["sh", "-c", find])?;
        ensure!(
            !log(&house)?.contains("no warm image was made"),
            "{}",
            log(&house)?
        );
        Ok(output.success().then(|| output.text()))
    })?;
    let size = size.lines().last().and_then(|line| line.split('\t').next());
    let size = size.context("no size")?.to_owned();
    let made = began.elapsed();
    let mut all = vec![cold];
    for _ in 0..WARM {
        all.push(who(&house)?);
    }
    let log = log(&house)?;
    let warm = log.matches("started from a warm image").count();
    ensure!(
        warm == WARM,
        "{warm} of {WARM} started from the image: {log}"
    );
    for (what, values) in [
        ("name", all.iter().map(|who| &who.name).collect()),
        ("machine id", all.iter().map(|who| &who.machine).collect()),
        ("random number", all.iter().map(|who| &who.random).collect()),
    ] {
        let values: BTreeSet<&String> = values;
        ensure!(
            values.len() == all.len(),
            "two disposables have the same {what}: {values:?}"
        );
    }
    let seconds: Vec<String> = all
        .iter()
        .map(|who| format!("{} {:.1} s", who.name, who.seconds))
        .collect();
    Ok(format!(
        "{}; the first booted, the others went on from an image of {size} MiB, made in {:.0} s",
        seconds.join(", "),
        made.as_secs_f64()
    ))
}

/// Runs a program in a fresh disposable, from the command to its end.
fn who(house: &House<'_>) -> Result<Who> {
    let began = Instant::now();
    let said = house.say(&["run", "--disposable", "--", "sh", "-c", WHO], LONG)?;
    let seconds = began.elapsed().as_secs_f64();
    let lines: Vec<&str> = said.lines().collect();
    let [name, machine, date, random] = lines.as_slice() else {
        anyhow::bail!("a disposable said {said:?}");
    };
    ensure!(
        name.starts_with("disp") && machine.len() == 32 && random.len() == 32,
        "a disposable said {said:?}"
    );
    let here: u64 = house.lab.text("user", &["date", "+%s"])?.trim().parse()?;
    let there: u64 = date.parse()?;
    ensure!(
        here.abs_diff(there) <= CLOCK,
        "the clock of {name} says {there}, the host's {here}"
    );
    Ok(Who {
        name: (*name).to_owned(),
        machine: (*machine).to_owned(),
        random: (*random).to_owned(),
        seconds,
    })
}

/// A window of a disposable that went on from the image.
pub(super) fn window(story: &mut Story, report: &mut Report) -> Result<String> {
    let house = story.house()?;
    house.put("report.pdf", &pdf::report())?;
    let before = log(&house)?.matches("started from a warm image").count();
    let began = Instant::now();
    let open = house.start(&["open", "--disposable", "report.pdf"])?;
    let window = house.window(|window| window.vm.starts_with("disp"), LONG)?;
    let seconds = began.elapsed().as_secs_f64();
    raise(&house, &window, DISPOSABLE)?;
    let path = report.picture("warm");
    house.until("its border and the page on the screen", SHORT, || {
        let picture = house.picture(&path)?;
        let page = picture.count(pdf::BAR, 2) > BAR_PIXELS;
        Ok((page && framed(&picture, &window, DISPOSABLE)).then_some(()))
    })?;
    let after = log(&house)?.matches("started from a warm image").count();
    ensure!(after == before + 1, "{} has booted", window.vm);
    close(&house, &window)?;
    let ended = open.wait(LONG)?;
    ensure!(
        ended.exit == Exit::Code(0),
        "casemate open ended with {ended:?}"
    );
    Ok(format!(
        "{} showed its window {seconds:.1} s after the command, and the page",
        window.vm
    ))
}

/// What the supervisor has said.
fn log(house: &House<'_>) -> Result<String> {
    let path = "cat ~/.local/state/casemate/logs/casemated.log";
    house.lab.text("user", &["sh", "-c", path])
}
