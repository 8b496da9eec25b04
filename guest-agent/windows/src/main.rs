//! `casemate-windows`: in a VM, as its user, the Wayland compositor of the VM's apps. It flattens each of their
//! windows into the window memory and tells the host's compositor what changed.
//!
//! It is not trusted by the host, draws nothing that a person should believe, and starts no programs. It offers no
//! X11, touch, input methods or scaling; the clipboard stays inside the VM; pictures that apps use as a pointer are
//! replaced by the host's arrow.
//!
//! One thread, one loop ([`agent`]):
//!
//! ```text
//! app -- Wayland --> handlers --> window --> session: "there is a window"     --> host
//!                                        --> present: canvas -> slot, "shown" --> host
//! app <-- Wayland -- keyboard, pointer, popup, frames <-- host: what the host's compositor says
//! ```

mod agent;
mod canvas;
mod damage;
mod device;
mod frames;
mod handlers;
mod host;
mod keyboard;
mod link;
mod memory;
mod notify;
mod options;
mod pointer;
mod popup;
mod present;
mod serials;
mod session;
mod slots;
mod window;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("warn,casemate_windows=info")),
        )
        .with_writer(std::io::stderr)
        .init();
    agent::run(&options::Options::parse())
}
