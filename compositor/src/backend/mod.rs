//! Where frames go and where input comes from. Knows nothing of windows.
//!
//! A backend shows one frame at a time: [`Backend::show`] starts, and the backend calls
//! [`App::presented`] from its own event source when the next may come.

mod headless;
mod kms;
mod kms_input;
mod kms_screen;
mod pacing;
mod window;

use std::path::Path;

use anyhow::Context as _;
use smithay::reexports::calloop::LoopHandle;

use crate::{
    args::{Args, Choice},
    geometry::{Rect, Size},
    run::App,
    scene::Frame,
};

/// An output with its input devices.
pub(crate) trait Backend: std::fmt::Debug {
    /// Starts showing a frame that differs from the last one in `damage`. Called only after the last frame was
    /// reported as presented.
    fn show(&mut self, frame: &Frame, damage: &[Rect]) -> anyhow::Result<()>;

    /// Nothing changed, but guests wait for the next frame: reports as presented after one refresh.
    fn idle_frame(&mut self);

    /// Whether frames can be shown now.
    fn active(&self) -> bool {
        true
    }

    /// Whether the bus may stand in for input devices.
    fn takes_injected_input(&self) -> bool {
        false
    }

    /// Switches to another virtual terminal, where there are any.
    fn switch_terminal(&mut self, _terminal: i32) {}

    /// The seat was taken away or given back.
    fn set_active(&mut self, _active: bool) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A backend and its output.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) size: Size,
    pub(crate) refresh_mhz: u32,
}

/// Refresh of outputs that have no clock of their own.
const REFRESH_MHZ: u32 = 60_000;

/// Starts the backend that was asked for.
pub(crate) fn start(args: &Args, handle: &LoopHandle<'static, App>) -> anyhow::Result<Started> {
    match args.backend {
        Choice::Headless => Ok(headless::start(args.size, handle)),
        Choice::Window => window::start(args.size, handle).context(
            "cannot open a window; inside a desktop WAYLAND_DISPLAY or DISPLAY must be set",
        ),
        Choice::Kms => kms::start(handle).context(
            "cannot take the screen; seatd or logind must run, and this session must be in the foreground",
        ),
        Choice::Auto => auto(args, handle),
    }
}

fn auto(args: &Args, handle: &LoopHandle<'static, App>) -> anyhow::Result<Started> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("WAYLAND_DISPLAY") || set("DISPLAY") {
        return window::start(args.size, handle).context("cannot open a window on this desktop");
    }
    if has_screen() {
        match kms::start(handle) {
            Ok(started) => return Ok(started),
            Err(error) => tracing::warn!("cannot take the screen, going on headless: {error:#}"),
        }
    }
    Ok(headless::start(args.size, handle))
}

fn has_screen() -> bool {
    std::fs::read_dir(Path::new("/dev/dri")).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("card"))
    })
}
