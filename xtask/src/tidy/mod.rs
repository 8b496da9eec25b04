//! `cargo xtask tidy`: rules of the tree that no compiler knows: which crate may depend on which, how
//! long a file may be, what it opens with. Each finding names a file and what to do.

mod arrows;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::root;

/// Something to change.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: PathBuf,
    line: Option<usize>,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        write!(formatter, ": {}", self.what)
    }
}

pub(crate) fn run() -> Result<()> {
    let root = root();
    let mut findings = arrows::check(&root)?;
    let paths = tracked(&root)?;
    let mut count = 0;
    for path in &paths {
        // A file that is deleted but not committed is still listed; others are pictures.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else {
            continue;
        };
        count += 1;
        findings.extend(files::check(path, &text));
        if let Some(lines) = files::questionable(path, &text) {
            println!(
                "tidy: {} has {lines} lines; a file over 500 is a question",
                path.display()
            );
        }
    }
    for finding in &findings {
        println!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("tidy: {count} files are in order");
    Ok(())
}

/// Files that git has or would take.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("this is no git repository");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(PathBuf::from).collect())
}
