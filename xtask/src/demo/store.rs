//! A disk image with the template store in it. The template is built natively, by the same command that a
//! person types, since the lab has neither the network nor the speed for it; the lab gets the result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_lab::{Here, Lab, cache_dir};
use ring::digest::{Context as Digest, SHA256};

use super::prefix::files;
use crate::run::{build_lab_guest, succeed};

/// The template of the demo.
pub(super) const TEMPLATE: &str = "debian-12";
/// How long a build may take; most of it is the download.
const BUILD: Duration = Duration::from_secs(3600);
/// Size of the image: room for the template and for what the VMs write, in bytes. It is sparse.
const SIZE: u64 = 12 << 30;

/// Gives the image for the programs in `prefix`; says how it came to be.
pub(super) fn image(prefix: &Path) -> Result<(PathBuf, String)> {
    let cache = cache_dir()?.join("lab");
    fs::create_dir_all(&cache)?;
    let image = cache.join(format!("store-{}.ext4", key(prefix)?));
    let lock = File::create(cache.join(".store.lock"))?;
    lock.lock()?;
    if image.exists() {
        return Ok((
            image,
            "unchanged since it was built, taken from the cache".to_owned(),
        ));
    }
    drop_older(&cache)?;
    let home = tempfile::Builder::new()
        .prefix("casemate-store.")
        .tempdir()?;
    let how = build_template(prefix, home.path())?;
    let data = home.path().join(".local/share/casemate");
    let draft = image.with_extension("draft");
    // Sparse, and there before mke2fs, which would tell that it makes it.
    File::create(&draft)?.set_len(SIZE)?;
    let mut make = Command::new("mke2fs");
    make.env("PATH", administrator_path()).args([
        "-q",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1",
    ]);
    // The lab's user owns its files there by the same number as in the image.
    succeed(make.arg("-d").arg(&data).arg(&draft))?;
    fs::rename(&draft, &image)?;
    Ok((image, how))
}

/// Builds the template in a home that holds nothing else; says how.
pub(super) fn build_template(prefix: &Path, home: &Path) -> Result<String> {
    let began = Instant::now();
    let cache = cache_dir()?;
    // The supervisor appends its own name, as the lab's cache has it already.
    let cache = cache.parent().unwrap_or(&cache).to_string_lossy();
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let here = Lab::start_here(&Here {
        home: home.to_owned(),
        programs: prefix.join("bin"),
        environment: vec![
            variable("XDG_CACHE_HOME", &cache),
            variable("CASEMATE_ALLOW_ROOT", "1"),
        ],
        guest_program: Some(build_lab_guest()?),
    })?;
    let build = ["casemate", "template", "build", TEMPLATE];
    let output = here.command("user", &build).timeout(BUILD).run()?;
    if !output.success() {
        let log = home.join(".local/state/casemate/logs/casemated.log");
        let log = fs::read_to_string(log).unwrap_or_default();
        bail!("{} failed: {}\n{log}", build.join(" "), output.errors());
    }
    // Its supervisor ends with it.
    here.shut_down()?;
    Ok(format!(
        "built by `casemate template build {TEMPLATE}` in {:.0} s",
        began.elapsed().as_secs_f64()
    ))
}

/// Digest of everything that goes into the template: guest programs, guest files, recipe, kernel.
pub(super) fn key(prefix: &Path) -> Result<String> {
    let mut digest = Digest::new(&SHA256);
    let share = prefix.join("share/casemate");
    let mut inputs = files(&share.join("guest-files"))?;
    inputs.extend(files(&share.join("templates"))?);
    inputs.extend(["casemate-agent", "casemate-windows"].map(|name| prefix.join("bin").join(name)));
    for path in inputs {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let head = format!("{}:{}:", path.strip_prefix(prefix)?.display(), bytes.len());
        digest.update(head.as_bytes());
        digest.update(&bytes);
    }
    digest.update(casemate_lab::image::kernel_package()?.as_bytes());
    Ok(digest
        .finish()
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Images of earlier builds: each is a gigabyte that nobody asks for again.
fn drop_older(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("store-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// mke2fs lies where an ordinary user's PATH may not look.
fn administrator_path() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}
