//! `qubes.Filecopy`: the receiving end of a copy.

use std::{
    env, fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use casemate_filecopy::{Rules, receive};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{Mode, OFlags};

pub(crate) mod status;

use status::Status;

/// Where a copy lands and how much of it may come.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct FilecopyOptions {
    /// Where they land; ~/QubesIncoming/SOURCE when absent.
    #[arg(long, value_name = "DIR")]
    incoming: Option<PathBuf>,
    /// Most bytes in all; no limit but the disk's when absent.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Most entries, of which a directory is two; no limit when absent.
    #[arg(long, value_name = "COUNT")]
    max_entries: Option<u64>,
}

/// Receives from stdin into the directory and says how it went on stdout.
pub(crate) fn run(options: FilecopyOptions) -> anyhow::Result<u8> {
    let source = env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    let dir = match options.incoming {
        Some(dir) => dir,
        None => default_directory(&home()?, &source)?,
    };
    let rules = Rules {
        any_characters: any_characters(&argument())?,
        one_file: false,
        max_bytes: options.max_bytes,
        max_entries: options.max_entries,
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut status = Status::new(&source, &dir);
    into(&dir, &rules, &mut status)
}

/// Receives from stdin into `dir`, which exists.
pub(super) fn into(dir: &Path, rules: &Rules, status: &mut Status) -> anyhow::Result<u8> {
    // A limit on file sizes is to be an error of a write, not the end of this process without a word.
    let mut beyond = SigSet::empty();
    beyond.add(Signal::SIGXFSZ);
    beyond.thread_block().context("cannot set signals")?;
    let root = open(dir)?;
    receive(
        &root,
        rules,
        &mut io::stdin().lock(),
        &mut io::stdout().lock(),
        &mut |received| status.note(received),
    )
    .context("the sender has gone")
}

/// Opens a directory that things land in.
pub(super) fn open(dir: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
        .with_context(|| format!("cannot open {}", dir.display()))
}

/// The argument of the call, which policy has judged; not a word of the command line, where it could look like an option.
pub(super) fn argument() -> String {
    env::var("QREXEC_SERVICE_ARGUMENT").unwrap_or_default()
}

fn any_characters(argument: &str) -> anyhow::Result<bool> {
    match argument {
        "" => Ok(false),
        "allow-all-names" => Ok(true),
        _ => bail!("the argument is not known; it can be allow-all-names"),
    }
}

/// `~/QubesIncoming/SOURCE`. The source comes from the broker; it is checked once more because it becomes a path.
fn default_directory(home: &Path, source: &str) -> anyhow::Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure!(
        !source.is_empty() && !source.starts_with('.') && source.chars().all(plain),
        "the source has no usable name"
    );
    Ok(home.join("QubesIncoming").join(source))
}

/// The home of the account that this process runs as.
pub(crate) fn home() -> anyhow::Result<PathBuf> {
    env::var_os("HOME")
        .map(PathBuf::from)
        .context("HOME is not set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_becomes_one_plain_component() {
        let home = Path::new("/home/user");
        assert_eq!(
            default_directory(home, "work").unwrap(),
            Path::new("/home/user/QubesIncoming/work")
        );
        for bad in ["", ".", "..", "../x", "a/b", ".ssh", "a\nb"] {
            assert!(default_directory(home, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn arguments() {
        assert!(!any_characters("").unwrap());
        assert!(any_characters("allow-all-names").unwrap());
        assert!(any_characters("x").is_err());
    }
}
