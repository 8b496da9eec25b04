//! `qubes.Filecopy`: the receiving end of a copy.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use rustix::fs::{Mode, OFlags};

use crate::filecopy::receive;

/// Receives from stdin into `incoming` and says how it went on stdout.
pub(crate) fn run(incoming: Option<PathBuf>) -> anyhow::Result<u8> {
    let dir = match incoming {
        Some(dir) => dir,
        None => default_directory(
            &home()?,
            &env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default(),
        )?,
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&dir, flags, Mode::empty())
        .with_context(|| format!("cannot open {}", dir.display()))?;
    let status = receive(&root, &mut io::stdin().lock(), &mut io::stdout().lock())
        .context("the sender has gone")?;
    Ok(status)
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
}
