//! What an init has to do before there are devices.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::MountFlags;

pub(super) fn mount(kind: &str, at: &str) -> Result<()> {
    rustix::mount::mount(kind, at, kind, MountFlags::empty(), None)
        .with_context(|| format!("cannot mount {at}"))
}

/// Loads every module of the initrd, in its order.
pub(super) fn load() -> Result<()> {
    let folder = Path::new("/modules");
    for name in std::fs::read_to_string(folder.join("order"))?.lines() {
        let file = File::open(folder.join(name))?;
        rustix::system::finit_module(file, c"", 0)
            .with_context(|| format!("cannot load {name}"))?;
    }
    Ok(())
}
