//! The person at the lab's machine: eyes (pictures of the screen), hands (keys and pointer).

mod keys;
mod picture;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::guest::{Guest, Output};
use crate::qmp::Qmp;

pub use picture::Picture;

/// Time between two pictures while waiting for one: a screen dump under emulation costs some 20 ms.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// Time between two input events. USB input devices are polled by the guest every few milliseconds of
/// its own slow time, and QEMU's queue for them is short.
const BETWEEN_EVENTS: Duration = Duration::from_millis(40);
/// Largest coordinate of QEMU's absolute pointer.
const POINTER_RANGE: u32 = 0x7fff;

/// Linux input code of the left button.
const LEFT_BUTTON: &str = "272";

/// The screen, keyboard and pointer of a lab.
#[derive(Debug)]
pub struct Screen<'a> {
    pub(crate) seat: Seat<'a>,
    pub(crate) folder: PathBuf,
}

/// Whose screen and input devices they are.
#[derive(Debug)]
pub(crate) enum Seat<'a> {
    /// QEMU's.
    Emulated(&'a Qmp),
    /// Those of a headless compositor, by way of the `casemate` command.
    Compositor(&'a Guest),
}

impl Screen<'_> {
    /// Takes a picture.
    ///
    /// # Errors
    /// When the lab has no screen, or has ended.
    pub fn picture(&self) -> Result<Picture> {
        let qmp = match self.seat {
            Seat::Emulated(qmp) => qmp,
            Seat::Compositor(guest) => {
                return Picture::from_png(&casemate(guest, &["screenshot", "-"])?);
            }
        };
        let file = self.folder.join("screen.ppm");
        qmp.execute("screendump", &json!({ "filename": file }))?;
        let bytes = std::fs::read(&file).context("QEMU left no picture")?;
        Picture::from_ppm(&bytes)
    }

    /// Takes pictures until one is as wanted.
    ///
    /// # Errors
    /// When none is within `timeout`; the last one lies at the path in the message.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&Picture) -> bool,
    ) -> Result<Picture> {
        let until = Instant::now() + timeout;
        loop {
            let picture = self.picture()?;
            if wanted(&picture) {
                return Ok(picture);
            }
            if Instant::now() >= until {
                let path = self.folder.join("last-screen.png");
                picture.save(&path)?;
                bail!(
                    "waited {timeout:?} for {what} on the screen; last picture: {}",
                    path.display()
                );
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Presses keys together and lets them go in reverse: `["ctrl", "c"]`. Names are QEMU's, whoever's keyboard it is.
    ///
    /// # Errors
    /// When QEMU knows no such key, or has gone.
    pub fn keys(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.key(name, true)?;
        }
        for name in names.iter().rev() {
            self.key(name, false)?;
        }
        Ok(())
    }

    /// Types text as a person at a US keyboard does; a line feed is the return key.
    ///
    /// # Errors
    /// When such a keyboard has no key for a character, or QEMU has gone.
    pub fn type_text(&self, text: &str) -> Result<()> {
        for character in text.chars() {
            let (name, shifted) = keys::of(character)
                .with_context(|| format!("no key of a US keyboard writes {character:?}"))?;
            if shifted {
                self.keys(&["shift", &name])?;
            } else {
                self.keys(&[&name])?;
            }
        }
        Ok(())
    }

    fn key(&self, name: &str, down: bool) -> Result<()> {
        let qmp = match self.seat {
            Seat::Emulated(qmp) => qmp,
            Seat::Compositor(guest) => {
                let code = keys::code(name).with_context(|| format!("no key is called {name}"))?;
                let words = ["input", "key", &code.to_string(), state(down)];
                return casemate(guest, &words).map(drop);
            }
        };
        let key = json!({ "type": "qcode", "data": name });
        send(
            qmp,
            &json!([{ "type": "key", "data": { "down": down, "key": key } }]),
        )
    }

    /// Moves the pointer to a pixel.
    ///
    /// # Errors
    /// When the screen cannot be measured, or QEMU has gone.
    pub fn pointer(&self, x: u32, y: u32) -> Result<()> {
        let qmp = match self.seat {
            Seat::Emulated(qmp) => qmp,
            Seat::Compositor(guest) => {
                let words = ["input", "motion", &x.to_string(), &y.to_string()];
                return casemate(guest, &words).map(drop);
            }
        };
        let size = self.picture()?;
        let scaled = |at: u32, of: u32| at.min(of) * POINTER_RANGE / of.max(1);
        let axis = |axis: &str, value: u32| json!({ "type": "abs", "data": { "axis": axis, "value": value } });
        send(
            qmp,
            &json!([
                axis("x", scaled(x, size.width)),
                axis("y", scaled(y, size.height))
            ]),
        )
    }

    /// Presses (or lets go of) the left button where the pointer is.
    ///
    /// # Errors
    /// When QEMU has gone.
    pub fn button(&self, down: bool) -> Result<()> {
        match self.seat {
            Seat::Emulated(qmp) => send(
                qmp,
                &json!([{ "type": "btn", "data": { "button": "left", "down": down } }]),
            ),
            Seat::Compositor(guest) => {
                casemate(guest, &["input", "button", LEFT_BUTTON, state(down)]).map(drop)
            }
        }
    }

    /// Moves the pointer to a pixel and clicks there.
    ///
    /// # Errors
    /// As [`Self::pointer`].
    pub fn click(&self, x: u32, y: u32) -> Result<()> {
        self.pointer(x, y)?;
        self.button(true)?;
        self.button(false)
    }
}

fn send(qmp: &Qmp, events: &Value) -> Result<()> {
    qmp.execute("input-send-event", &json!({ "events": events }))?;
    thread::sleep(BETWEEN_EVENTS);
    Ok(())
}

/// What `casemate` says on its standard output.
fn casemate(guest: &Guest, words: &[&str]) -> Result<Vec<u8>> {
    let argv: Vec<&str> = std::iter::once("casemate")
        .chain(words.iter().copied())
        .collect();
    let output = guest.command("user", &argv).run().and_then(Output::check);
    Ok(output.with_context(|| argv.join(" "))?.stdout)
}

fn state(down: bool) -> &'static str {
    if down { "down" } else { "up" }
}
