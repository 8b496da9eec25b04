//! `cargo xtask fuzz`: builds the fuzz targets of `tests/fuzz` and runs each for a while, or its seeds once.
//!
//! A target starts from its committed seeds in `tests/fuzz/corpus`; what it finds beside them is kept in the build
//! folder and used again, but never committed by itself. An input that crashes a target is left in
//! `tests/fuzz/artifacts`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::run::{cargo, root, succeed, target_dir};

/// Run the fuzz targets: each for some seconds, or its seeds once.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only this target; all of them when it is left out.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only run the committed seeds, once.
    #[arg(long, conflicts_with = "seconds")]
    replay: bool,
    /// Also find accesses outside of allocations, at half the speed.
    #[arg(long)]
    address_sanitizer: bool,
}

/// Coverage as libFuzzer wants it; the pass is part of a stable compiler.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Needs features of a nightly compiler, which `RUSTC_BOOTSTRAP` lets a stable one have.
const ADDRESS_SANITIZER: &str = " -Zsanitizer=address";

/// What an input may cost: seconds, MiB, and bytes of its own. No target has a use for more.
const LIMITS: [&str; 3] = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096"];

/// Lines of a target's output that are shown when it fails.
const TAIL: usize = 40;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let home = root().join("tests/fuzz");
    let targets = chosen(&home, arguments.target.as_deref())?;
    let build = build(&home, &targets, arguments.address_sanitizer)?;
    let mut failed = Vec::new();
    for target in &targets {
        let run = Run {
            target,
            seeds: home.join("corpus").join(target),
            artifacts: home.join("artifacts").join(target),
            build: &build,
        };
        if let Err(error) = run.start(arguments) {
            println!("fuzz: {target}: {error:#}");
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("fuzz: {} targets, no failure", targets.len());
    Ok(())
}

/// Runs the committed seeds of all targets, once.
pub(crate) fn replay() -> Result<()> {
    run(&Arguments {
        target: None,
        seconds: 1,
        replay: true,
        address_sanitizer: false,
    })
}

/// The names of the targets to run, sorted.
fn chosen(home: &Path, wanted: Option<&str>) -> Result<Vec<String>> {
    let folder = home.join("fuzz_targets");
    let mut names = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let source = path.extension().is_some_and(|extension| extension == "rs");
        if let Some(name) = path.file_stem().filter(|_| source) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    let Some(wanted) = wanted else {
        return Ok(names);
    };
    if !names.iter().any(|name| name == wanted) {
        bail!(
            "there is no target {wanted}; there are {}",
            names.join(", ")
        );
    }
    Ok(vec![wanted.to_owned()])
}

/// Builds the targets and says where: a folder of its own, because the flags are others than everyone's.
fn build(home: &Path, targets: &[String], address_sanitizer: bool) -> Result<Build> {
    let (name, flags) = if address_sanitizer {
        ("fuzz-address", format!("{COVERAGE}{ADDRESS_SANITIZER}"))
    } else {
        ("fuzz", COVERAGE.to_owned())
    };
    let folder = target_dir().join(name);
    let host = host()?;
    println!("fuzz: building {} targets", targets.len());
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--release", "--manifest-path"])
        .arg(home.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        // With a named target the flags are not for build scripts and macros.
        .args(["--target", &host])
        .args(targets.iter().flat_map(|target| ["--bin", target]))
        .env("RUSTFLAGS", flags)
        .env("RUSTC_BOOTSTRAP", "1");
    succeed(&mut command)?;
    Ok(Build {
        programs: folder.join(host).join("release"),
        folder,
    })
}

/// The triple of this machine, as the compiler calls it.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "host-tuple"])
        .output()
        .context("cannot run rustc")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

struct Build {
    /// Where cargo built, and where corpora that grow and logs are kept.
    folder: PathBuf,
    programs: PathBuf,
}

/// One target about to run.
struct Run<'a> {
    target: &'a str,
    seeds: PathBuf,
    artifacts: PathBuf,
    build: &'a Build,
}

impl Run<'_> {
    fn start(&self, arguments: &Arguments) -> Result<()> {
        let target = self.target;
        let seeds = count(&self.seeds)?;
        let mut command = Command::new(self.build.programs.join(target));
        command.args(LIMITS);
        command.arg(format!("-artifact_prefix={}/", self.artifacts.display()));
        if arguments.replay {
            println!("fuzz: {target}: {seeds} seeds once");
            command.arg("-runs=0").arg(&self.seeds);
        } else {
            let seconds = arguments.seconds;
            println!("fuzz: {target}: {seconds} s from {seeds} seeds");
            // New inputs go to the first folder.
            let found = self.build.folder.join("found").join(target);
            fs::create_dir_all(&found)?;
            command.arg(format!("-max_total_time={seconds}"));
            command.arg(found).arg(&self.seeds);
        }
        fs::create_dir_all(&self.artifacts)?;
        let before = artifacts(&self.artifacts)?;
        let log = self.build.folder.join(format!("{target}.log"));
        let output = File::create(&log)?;
        let status = command
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .with_context(|| format!("cannot run {target}"))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if status.success() {
            println!("fuzz: {target}: {}", summary(&text).unwrap_or("done"));
            return Ok(());
        }
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
            println!("    {line}");
        }
        let mut new = artifacts(&self.artifacts)?;
        new.retain(|path| !before.contains(path));
        match new.last() {
            Some(path) => bail!("failed ({status}), the input is {}", path.display()),
            None => bail!("failed ({status}), see {}", log.display()),
        }
    }
}

/// The number of committed seeds; a target without any would begin blind.
fn count(seeds: &Path) -> Result<usize> {
    let count = fs::read_dir(seeds).map(Iterator::count).unwrap_or(0);
    if count == 0 {
        bail!("no seeds in {}", seeds.display());
    }
    Ok(count)
}

/// The files in a folder, sorted.
fn artifacts(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// What libFuzzer said last of its progress: `#EXECUTIONS DONE cov: ... corp: ...`.
fn summary(log: &str) -> Option<&str> {
    let digit = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    log.lines()
        .rev()
        .find(|line| line.strip_prefix('#').is_some_and(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_progress_is_the_summary() {
        let log = "INFO: x\n#2\tINITED cov: 1\n#9\tDONE   cov: 7\n###### End of dictionary\nDone\n";
        assert_eq!(summary(log), Some("#9\tDONE   cov: 7"));
        assert_eq!(summary("INFO: x\n"), None);
    }

    #[test]
    fn every_target_has_seeds_and_a_place_in_the_manifest() {
        let home = root().join("tests/fuzz");
        let manifest = fs::read_to_string(home.join("Cargo.toml")).expect("the manifest");
        let names = chosen(&home, None).expect("targets");
        assert!(!names.is_empty());
        for name in names {
            assert!(count(&home.join("corpus").join(&name)).is_ok(), "{name}");
            assert!(
                manifest.contains(&format!("fuzz_targets/{name}.rs")),
                "{name}"
            );
        }
        assert!(chosen(&home, Some("nothing")).is_err());
    }
}
