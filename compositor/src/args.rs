//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::geometry::Size;

/// Shows the windows of all VMs, framed in their colours, and asks the person what policy asks.
#[derive(Debug, Parser)]
#[command(name = "casemate-compositor", version)]
pub(crate) struct Args {
    /// Directory of the sockets, usually $XDG_RUNTIME_DIR/casemate. Made if missing.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime: PathBuf,
    /// Where to show: the screen itself, a window of an existing desktop, or nowhere but in screenshots.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    pub(crate) backend: Choice,
    /// Size of the output for headless and window.
    #[arg(long, value_name = "WxH", default_value = "1280x800", value_parser = size)]
    pub(crate) size: Size,
}

/// Which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// A window inside a desktop if there is one, else the screen, else headless.
    Auto,
    /// No screen; frames on a timer, input over the bus.
    Headless,
    /// The screen by KMS, input by libinput, the seat by libseat.
    Kms,
    /// A window inside an existing Wayland or X11 desktop.
    Window,
}

fn size(text: &str) -> Result<Size, String> {
    let parse = || {
        let (w, h) = text.split_once('x')?;
        let (w, h): (i32, i32) = (w.parse().ok()?, h.parse().ok()?);
        ((320..=8192).contains(&w) && (200..=8192).contains(&h)).then(|| Size::new(w, h))
    };
    parse().ok_or_else(|| "a size is WxH, from 320x200 to 8192x8192".to_owned())
}
