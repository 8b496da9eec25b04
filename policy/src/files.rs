//! Which files make up a policy, and how the parser gets their text.

use std::collections::BTreeMap;

/// Gives the parser the text of files, and knows nothing of policy.
///
/// `directory` is an index into the list that was given to [`select`]; `path` is relative to that directory, unless
/// a person wrote an absolute one behind `!include`.
pub trait Files {
    /// The whole text of a file.
    ///
    /// # Errors
    /// A sentence without full stop, for a person.
    fn text(&self, directory: usize, path: &str) -> Result<String, String>;

    /// The names of the regular files in a directory, in any order.
    ///
    /// # Errors
    /// A sentence without full stop, for a person.
    fn names(&self, directory: usize, path: &str) -> Result<Vec<String>, String>;

    /// How a person would write the path of the file.
    fn display(&self, directory: usize, path: &str) -> String;
}

/// One top-level file of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Index of its directory.
    pub directory: usize,
    /// Its name there.
    pub name: String,
}

/// A file name that makes the whole policy invalid: nobody can say where in the order it belongs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of policy file '{name}' may hold only a-z, 0-9, '_', '.' and '-'; rename or remove it"
)]
pub struct Refused {
    /// Index of its directory.
    pub directory: usize,
    /// The name.
    pub name: String,
}

const SUFFIX: &str = ".policy";

/// Picks the policy files out of the names in each directory, in the order in which they are read.
///
/// The order is that of the bytes of the names. A name in an earlier directory hides the same name in later ones.
///
/// # Errors
/// [`Refused`].
pub fn select(directories: &[Vec<String>]) -> Result<Vec<PolicyFile>, Refused> {
    let mut files = BTreeMap::new();
    for (directory, names) in directories.iter().enumerate() {
        for name in names.iter().filter(|name| is_policy(name)) {
            if !name.bytes().all(is_name_byte) {
                return Err(Refused {
                    directory,
                    name: name.clone(),
                });
            }
            files.entry(name.clone()).or_insert(directory);
        }
    }
    Ok(files
        .into_iter()
        .map(|(name, directory)| PolicyFile { directory, name })
        .collect())
}

fn is_policy(name: &str) -> bool {
    name.ends_with(SUFFIX) && !name.starts_with('.')
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte)
}
