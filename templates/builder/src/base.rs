//! The base system: what mmdebstrap makes of the recipe's package list, as a tar archive in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    BuildError, Recipe,
    cache::{cached, key},
    command::{is_root, run},
};

/// Counts changes of this file that make old caches wrong.
const REVISION: &str = "2";

/// The host's own package sources, used when they are Debian's: what the person trusts already.
const HOST_SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

/// Gives the archive of the base system, from the cache or by mmdebstrap (some minutes).
pub(crate) fn base_system(
    recipe: &Recipe,
    cache: &Path,
    line: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let name = format!("base-{}-{}.tar", recipe.suite, key(&inputs(recipe)));
    cached(cache, &name, |partial| {
        let mut command = Command::new("mmdebstrap");
        command
            .arg(format!(
                "--mode={}",
                if is_root() { "root" } else { "unshare" }
            ))
            .args(["--variant=minbase", "--format=tar", "--skip=check/empty"])
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--aptopt=Acquire::Retries \"3\"")
            .arg(format!("--include={}", recipe.packages.join(",")));
        for pattern in &recipe.exclude {
            command.arg(format!("--dpkgopt=path-exclude={pattern}"));
        }
        let user = &recipe.user;
        command
            .arg(format!("--customize-hook=chroot \"$1\" useradd --create-home --shell /bin/bash --uid 1000 {user}"))
            .arg(r#"--customize-hook=chroot "$1" dpkg-query -W -f '${Package} ${Version}\n' > "$1/usr/share/casemate-packages""#)
            // Every VM makes its own at first boot.
            .arg(r#"--customize-hook=rm -f "$1/etc/machine-id" "$1/var/lib/dbus/machine-id" "$1/etc/hostname"; : > "$1/etc/machine-id""#)
            .arg(&recipe.suite)
            .arg(partial);
        if host_has(&recipe.suite) {
            command.arg(HOST_SOURCES);
        }
        run(&mut command, line)
    })
}

/// What of a recipe decides the base system; the rest of it may change without making it again.
fn inputs(recipe: &Recipe) -> Vec<&str> {
    let lists = [&recipe.packages, &recipe.exclude];
    let words = lists.into_iter().flatten().map(String::as_str);
    [REVISION, &recipe.suite, &recipe.user]
        .into_iter()
        .chain(words)
        .collect()
}

fn host_has(suite: &str) -> bool {
    fs::read_to_string(HOST_SOURCES).is_ok_and(|sources| {
        sources.lines().any(|line| {
            line.strip_prefix("Suites:")
                .is_some_and(|suites| suites.split_whitespace().any(|word| word == suite))
        })
    })
}
