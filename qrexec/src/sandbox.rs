//! What the broker gives up at its start: new privileges, and every path but its own.
//!
//! Landlock restricts opening files, not connecting to sockets; the sockets of other programs are guarded by their
//! own directories.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

/// The version that the rights are taken from; an older kernel restricts what it can.
const RIGHTS: ABI = ABI::V5;

/// Where random numbers come from in a program that is linked alone: its libraries do not look for the kernel's call then.
const RANDOM: [&str; 2] = ["/dev/random", "/dev/urandom"];

/// Restricts this thread and all that it starts. Directories that are missing are made where that is possible.
///
/// # Errors
/// When one's own directories cannot be made, or the kernel refuses what it offers.
pub(crate) fn enter(runtime: &Path, policy: &[PathBuf], state: &Path) -> Result<()> {
    for directory in [runtime, state] {
        make(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    for directory in policy {
        // A directory of the administrator cannot be made by us and need not exist.
        if let Err(error) = make(directory) {
            tracing::debug!(%error, directory = %directory.display(), "no such policy directory");
        }
    }
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))?
        .create()?;
    for directory in [runtime, state] {
        rules = rules.add_rule(beneath(directory, AccessFs::from_all(RIGHTS))?)?;
    }
    for directory in policy.iter().filter(|directory| directory.is_dir()) {
        rules = rules.add_rule(beneath(directory, AccessFs::from_read(RIGHTS))?)?;
    }
    for file in RANDOM {
        // A kernel that has none of them answers by its call.
        if let Ok(file) = PathFd::new(file) {
            rules = rules.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
        }
    }
    let status = rules.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        tracing::warn!(status = ?status.ruleset, "this kernel does not restrict the broker's file access fully");
    }
    Ok(())
}

/// Nobody else's business, like all that Casemate makes.
fn make(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}

fn beneath(directory: &Path, rights: landlock::BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>> {
    let directory = PathFd::new(directory)
        .with_context(|| format!("cannot open the directory {}", directory.display()))?;
    Ok(PathBeneath::new(directory, rights))
}
