//! Gives the program a number of its own: a snapshot is restored only by the build that wrote it. What a state means
//! follows from the sources of these crates, from the versions of all others, and from the compiler.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Beside this crate's own sources.
const PARTS: [&str; 5] = [
    "src",
    "control/src",
    "devices/src",
    "link/src",
    "../../Cargo.lock",
];

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut files = BTreeSet::new();
    for part in PARTS {
        println!("cargo:rerun-if-changed={part}");
        collect(&root.join(part), &mut files)?;
    }
    // Not secret and not against an enemy, for whom there is the seal: only other builds must differ.
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.strip_prefix(&root).unwrap_or(&file).hash(&mut hasher);
        std::fs::read(&file)?.hash(&mut hasher);
    }
    for name in ["TARGET", "PROFILE", "OPT_LEVEL"] {
        std::env::var(name).ok().hash(&mut hasher);
    }
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("-vV").output()?;
    version.stdout.hash(&mut hasher);
    println!("cargo:rustc-env=CASEMATE_VMM_BUILD={:x}", hasher.finish());
    Ok(())
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else {
        files.insert(path.to_owned());
    }
    Ok(())
}
