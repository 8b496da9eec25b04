//! What the mixer gives up at its start: new privileges, writing and running files, and reading what is not PipeWire's.
//!
//! Landlock restricts opening files, not connecting to sockets, so PipeWire's socket needs no rule.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

/// The version that the rights are taken from; an older kernel restricts what it can.
const RIGHTS: ABI = ABI::V5;

/// Where PipeWire's library finds its configuration and its plugins, and these their libraries; those of a host that exist.
const READ: [&str; 6] = ["/usr", "/lib", "/lib64", "/etc", "/nix/store", "/sys"];

/// Restricts this thread and all that it starts.
///
/// # Errors
/// When the kernel refuses what it offers.
pub(crate) fn enter() -> Result<()> {
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))?
        .create()?;
    let own = own_configuration();
    for directory in READ.iter().map(Path::new).chain(own.as_deref()) {
        // Not every host has every one.
        if let Ok(opened) = PathFd::new(directory) {
            let rights = AccessFs::ReadFile | AccessFs::ReadDir;
            rules = rules.add_rule(PathBeneath::new(opened, rights))?;
        }
    }
    let status = rules.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        tracing::warn!(status = ?status.ruleset, "this kernel does not restrict the mixer's file access fully");
    }
    Ok(())
}

/// What a person has written for PipeWire's clients.
fn own_configuration() -> Option<PathBuf> {
    let set = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = set.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".config")))?;
    Some(config.join("pipewire"))
}
