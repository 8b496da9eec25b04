//! Windows of two VMs on one screen, and a keyboard that belongs to one of them at a time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use casemate_lab::Picture;
use casemate_vm::Label;

use super::life::VMS;
use crate::demo::Story;
use crate::demo::house::{House, LONG, SHORT, Window};
use crate::demo::report::Report;

/// A border is this wide at least; see the compositor's theme.
const BORDER: i64 = 4;
/// Height of a title bar.
const TITLE: i64 = 24;
/// Part of a border that may be hidden behind other windows, in parts of 1.
const HIDDEN: f64 = 0.7;

pub(super) fn show(story: &mut Story, report: &mut Report) -> Result<String> {
    let house = story.house()?;
    // Dropping the handles leaves the programs running.
    // Small, so that it hides nothing of the other window's title.
    let foot = ["run", "work", "--", "foot", "--window-size-pixels=400x300"];
    drop(house.start(&foot)?);
    let terminal = house.window(|window| window.vm == "work", LONG)?;
    drop(house.start(&["run", "untrusted", "--", "gtk4-demo"])?);
    let gtk = house.window(|window| window.vm == "untrusted", LONG)?;
    let path = report.picture("windows");
    house.until("both borders on the screen", LONG, || {
        let picture = house.picture(&path)?;
        let framed = framed(&picture, &terminal, "blue") && framed(&picture, &gtk, "red");
        Ok(framed.then_some(()))
    })?;
    Ok(format!(
        "[work] {:?} in blue, [untrusted] {:?} in red",
        terminal.title, gtk.title
    ))
}

pub(super) fn typed(story: &mut Story, report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let screen = house.lab.screen();
    let window = house.window(|window| window.vm == "work", SHORT)?;
    raise(&house, &window, label("work")?)?;
    screen.type_text("echo typed in $(hostname) > typed\n")?;
    let text = house.until("the line to arrive in work", SHORT, || {
        let text = house.shell("work", "cat ~/typed 2>/dev/null || true")?;
        Ok((!text.is_empty()).then_some(text))
    })?;
    ensure!(text == "typed in work\n", "work has {text:?}");
    let other = house.shell("untrusted", "ls ~/typed 2>/dev/null || true")?;
    ensure!(other.is_empty(), "the line reached untrusted too");
    house.picture(&report.picture("typed"))?;
    Ok(format!("{:?} in work, nothing in untrusted", text.trim()))
}

/// Whether enough of a window's border is on the screen in its VM's colour.
pub(super) fn framed(picture: &Picture, window: &Window, label: &str) -> bool {
    let Ok(label) = label.parse::<Label>() else {
        return false;
    };
    let [_, red, green, blue] = label.rgb().to_be_bytes();
    let (left, top) = (window.x - 1, window.y);
    let right = window.x + i64::from(window.width);
    let bottom = window.y + i64::from(window.height);
    // One line of pixels at each side and at the bottom; the title bar is above.
    let sides = (top..bottom).flat_map(|y| [(left, y), (right, y)]);
    let places: Vec<(i64, i64)> = sides
        .chain((window.x..right).map(|x| (x, bottom)))
        .collect();
    // A window may be larger than the screen; what is beyond it has no pixels.
    let pixels = places.iter().filter_map(|(x, y)| {
        let (x, y) = u32::try_from(*x).ok().zip(u32::try_from(*y).ok())?;
        picture.pixel(x, y)
    });
    let (mut seen, mut coloured) = (0_u32, 0_u32);
    for pixel in pixels {
        seen += 1;
        coloured += u32::from(pixel == [red, green, blue]);
    }
    seen > 0 && f64::from(coloured) >= f64::from(seen) * (1.0 - HIDDEN)
}

/// Brings a toplevel to the front, as a person does: by a click on a part of its title bar that shows.
pub(super) fn raise(house: &House<'_>, window: &Window, label: &str) -> Result<()> {
    let [_, red, green, blue] = label.parse::<Label>()?.rgb().to_be_bytes();
    // The border runs along the top of the title bar. Its right end is the button that closes.
    let top = u32::try_from(window.y - TITLE - BORDER / 2)?;
    let left = u32::try_from(window.x)?;
    let ends = left + window.width.saturating_sub(30);
    // A window that has just been mapped is listed before its first picture is on the screen.
    let shown = house.until("a part of its title bar to show", SHORT, || {
        let picture = house.lab.screen().picture()?;
        let framed = |x: &u32| picture.pixel(*x, top) == Some([red, green, blue]);
        Ok((left..ends).rev().find(framed))
    })?;
    house.lab.screen().click(shown, top + 14)
}

/// Colour name of a VM of the demo.
pub(super) fn label(vm: &str) -> Result<&'static str> {
    let found = VMS.iter().find(|(name, _)| *name == vm);
    Ok(found
        .with_context(|| format!("{vm} is no VM of the demo"))?
        .1)
}

/// Closes a toplevel by the button at the right end of its title bar.
pub(super) fn close(house: &House<'_>, window: &Window) -> Result<()> {
    let x = window.x + i64::from(window.width) - 12;
    let y = window.y - 12;
    house
        .lab
        .screen()
        .click(u32::try_from(x)?, u32::try_from(y)?)?;
    // Twice within the toolkit's double-click time would be another gesture.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}
