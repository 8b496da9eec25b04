//! Reading TOML with errors that a person can find: `FILE:LINE: what`.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;

/// Largest file that is read, in bytes. Our files are a few hundred; a person's mistake must not fill the memory.
const MAX_FILE: u64 = 256 * 1024;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// There is none.
    #[error("{0} does not exist")]
    Missing(String),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
    /// Not what it should be; the text begins with `FILE:LINE:`.
    #[error("{0}")]
    Wrong(String),
}

/// Reads and parses one file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Unreadable> {
    let shown = path.display().to_string();
    let wrap = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Unreadable::Missing(shown.clone()),
        _ => Unreadable::Io {
            path: shown.clone(),
            source,
        },
    };
    let length = fs::metadata(path).map_err(wrap)?.len();
    if length > MAX_FILE {
        return Err(Unreadable::Wrong(format!(
            "{shown}:1: the file has {length} bytes, at most {MAX_FILE} are read"
        )));
    }
    let text = fs::read_to_string(path).map_err(wrap)?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text
            .bytes()
            .take(start)
            .filter(|byte| *byte == b'\n')
            .count()
            + 1;
        Unreadable::Wrong(format!("{shown}:{line}: {}", error.message().trim()))
    })
}

/// As [`read`], with nothing for a missing file.
pub(crate) fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Unreadable> {
    match read(path) {
        Ok(value) => Ok(Some(value)),
        Err(Unreadable::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use casemate_vm::VmSpec;

    use super::*;

    #[test]
    fn errors_name_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("work.toml");
        for (text, line, word) in [
            (
                "template = \"debian-12\"\nlabel = \"blue\"\nmemroy-mib = 5\n",
                3,
                "memroy-mib",
            ),
            ("template = \"debian-12\"\nlabel = \"bleu\"\n", 2, "bleu"),
            ("template = \"debian-12\"\nlabel = \n", 2, "value"),
            ("label = \"blue\"\n", 1, "template"),
            ("template = \"../up\"\nlabel = \"blue\"\n", 1, "letter"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read::<VmSpec>(&path).unwrap_err().to_string();
            let expected = format!("{}:{line}: ", path.display());
            assert!(error.starts_with(&expected), "{error}");
            assert!(error.contains(word), "{error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_told_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent.toml");
        assert_eq!(read_optional::<VmSpec>(&path).unwrap(), None);
        fs::write(&path, "=").unwrap();
        read_optional::<VmSpec>(&path).unwrap_err();
    }
}
