//! Files that are dear to make, kept under the digest of what they were made from.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};

use crate::BuildError;

/// The name of what is made from these inputs: the first 16 hexadecimal digits of their digest.
pub(crate) fn key(inputs: &[&str]) -> String {
    // A length before each input keeps ("ab", "c") and ("a", "bc") apart.
    let joined: String = inputs
        .iter()
        .map(|input| format!("{}:{input}", input.len()))
        .collect();
    digest(&SHA256, joined.as_bytes())
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Gives `dir/name`, making it with `make` when it is missing. A lock keeps two builders apart, a rename keeps
/// half-made files from ever having the name.
pub(crate) fn cached(
    dir: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), BuildError>,
) -> Result<PathBuf, BuildError> {
    let wrap = |what: &str| BuildError::io(format!("cannot {what} the cache {}", dir.display()));
    fs::create_dir_all(dir).map_err(wrap("make"))?;
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    let lock = File::create(dir.join(format!("{name}.lock"))).map_err(wrap("write to"))?;
    lock.lock().map_err(wrap("lock"))?;
    if path.exists() {
        return Ok(path);
    }
    let partial = dir.join(format!("{name}.partial"));
    // What an interrupted run has left would only confuse the tool that makes it.
    remove(&partial).map_err(wrap("clear"))?;
    make(&partial)?;
    fs::rename(&partial, &path).map_err(wrap("write to"))?;
    Ok(path)
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let failed = cached(dir.path(), "x", |path| {
            fs::write(path, "half").unwrap();
            Err(BuildError::Unexpected("no".to_owned()))
        });
        assert!(failed.is_err() && !dir.path().join("x").exists());
        let path = cached(dir.path(), "x", |path| {
            fs::write(path, "whole").map_err(BuildError::io("write"))
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        cached(dir.path(), "x", |_| panic!("made twice")).unwrap();
    }

    #[test]
    fn keys_tell_inputs_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }
}
