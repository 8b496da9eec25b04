//! What goes and what stays: disposables, throw-away roots, and VMs whose supervisor is killed.

use anyhow::{Result, ensure};
use casemate_lab::wire::Exit;

use super::windows::{close, framed, label, raise};
use crate::demo::Story;
use crate::demo::house::{House, LONG, SHORT};
use crate::demo::pdf;
use crate::demo::report::Report;

/// Colour of disposables.
const DISPOSABLE: &str = "red";
/// Fewer pixels of the page's bar than this are no page.
const BAR_PIXELS: usize = 3000;

pub(super) fn disposable(story: &mut Story, report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let before = traces(&house)?;
    let open = house.start(&["open", "--disposable", "report.pdf"])?;
    let window = house.window(|window| window.vm.starts_with("disp"), LONG)?;
    raise(&house, &window, DISPOSABLE)?;
    let path = report.picture("disposable");
    house.until("its border and the page on the screen", SHORT, || {
        let picture = house.picture(&path)?;
        let page = picture.count(pdf::BAR, 2) > BAR_PIXELS;
        Ok((page && framed(&picture, &window, DISPOSABLE)).then_some(()))
    })?;
    let title = house.window(|other| other.vm == window.vm, SHORT)?.title;
    let running = house.vm(&window.vm)?;
    ensure!(
        running.kind == "disposable",
        "{} is of kind {}",
        running.name,
        running.kind
    );
    close(&house, &window)?;
    let ended = open.wait(LONG)?;
    ensure!(
        ended.exit == Exit::Code(0),
        "casemate open ended with {ended:?}"
    );
    house.until("the disposable to go", SHORT, || {
        let there = house.vms()?.iter().any(|vm| vm.name == window.vm);
        Ok((!there).then_some(()))
    })?;
    let gone = house
        .lab
        .run("user", &["test", "-d", &format!("/proc/{}", running.pid)])?;
    ensure!(!gone.success(), "its vmm still runs");
    let after = traces(&house)?;
    ensure!(
        after == before,
        "it left something: {after:?} instead of {before:?}"
    );
    Ok(format!(
        "{} showed the page of {:?}; closing it removed the VM, its volumes and its sockets",
        window.vm, title
    ))
}

/// Every file of Casemate that a VM may cause, and every volume without a name that is held open.
fn traces(house: &House<'_>) -> Result<Vec<String>> {
    let named = "cd ~/.local/share/casemate && find vms volatile; cd ~/.local/state/casemate && find run pending; \
                 cd $XDG_RUNTIME_DIR/casemate && find vms";
    // Only root may look into a vmm. Processes come and go meanwhile, which is no failure.
    let nameless =
        "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -o '/[^ ]*casemate/.*(deleted)' || true";
    let mut files = house.lab.text("user", &["sh", "-c", named])?;
    files.push_str(&house.lab.text("root", &["sh", "-c", nameless])?);
    let mut files: Vec<String> = files.lines().map(str::to_owned).collect();
    files.sort();
    Ok(files)
}

pub(super) fn restart(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    house.say(
        &[
            "run",
            "-u",
            "root",
            "work",
            "--",
            "touch",
            "/etc/casemate-was-here",
        ],
        SHORT,
    )?;
    house.shell("work", "echo kept > ~/kept && sync")?;
    house.say(&["shutdown", "work"], LONG)?;
    house.say(&["start", "work"], LONG)?;
    let outside = house.shell("work", "ls /etc/casemate-was-here 2>/dev/null || echo gone")?;
    let inside = house.shell("work", "cat ~/kept")?;
    ensure!(
        (outside.as_str(), inside.as_str()) == ("gone\n", "kept\n"),
        "/etc: {outside:?}, /home: {inside:?}"
    );
    Ok("the file in /etc is gone, the one in /home is there".to_owned())
}

pub(super) fn adoption(story: &mut Story, report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let before = house.vms()?;
    let windows = house.windows()?;
    let old = house.supervisor()?;
    house.lab.text("user", &["kill", "-9", &old])?;
    let untrusted = windows
        .iter()
        .find(|window| window.vm == "untrusted" && window.kind == "toplevel");
    let picture = house.picture(&report.picture("supervisor-killed"))?;
    if let Some(window) = untrusted {
        ensure!(
            framed(&picture, window, label("untrusted")?),
            "the window of untrusted is gone"
        );
    }
    // The next command starts a supervisor, which finds what the first one left.
    let after = house.vms()?;
    let new = house.supervisor()?;
    ensure!(new != old, "casemated was not killed");
    ensure!(after == before, "{after:?} instead of {before:?}");
    ensure!(house.windows()? == windows, "the windows are others");
    let kernel = house.say(&["run", "untrusted", "--", "uname", "-n"], SHORT)?;
    ensure!(kernel == "untrusted\n", "untrusted said {kernel:?}");
    Ok(format!(
        "casemated {old} was killed, {new} adopted {} VMs",
        after.len()
    ))
}
