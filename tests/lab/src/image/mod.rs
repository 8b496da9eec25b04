//! The lab's kernel, initrd and root image: made from Debian's packages when missing, kept in the
//! cache under the digest of all that they are made from.
//!
//! Two tests that need the image at once make it once: the second waits for the first one's lock.
//! An interrupted build leaves no image, only a folder with a name that nobody looks for.

mod guest_initrd;
mod guest_kernel;
mod recipe;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
pub use casemate_template_builder::KernelFiles;
use casemate_template_builder::{
    InitrdSpec, decompress_module, fetch_kernel, newest_package, resolve, write_initrd,
};
use ring::digest::{SHA256, digest};

pub use guest_initrd::{add_program, write_guest_initrd};
pub use guest_kernel::{cloud_kernel, lay_out_kernel, standard_kernel};
use recipe::{INITRD_MODULES, MODULES, PACKAGES, SUITE};

const INITRD_INIT: &str = include_str!("initrd-init.sh");
const LAB_INIT: &str = include_str!("lab-init.sh");
const ASSEMBLE: &str = include_str!("assemble.sh");
/// Counts changes of this file that make old images wrong.
const REVISION: &str = "1";
/// Package sources of the machine, when it is a Debian of the same release.
const HOST_SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

/// What QEMU boots.
#[derive(Debug, Clone)]
pub struct Image {
    /// ELF kernel, for PVH.
    pub kernel: PathBuf,
    /// Release of the kernel.
    pub version: String,
    /// Initial RAM disk.
    pub initrd: PathBuf,
    /// Root file system (erofs).
    pub root: PathBuf,
}

/// Where images are kept: `CASEMATE_CACHE`, or `casemate` in the user's cache folder.
///
/// # Errors
/// When no home is known.
pub fn cache_dir() -> Result<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    dir("CASEMATE_CACHE")
        .map(PathBuf::from)
        .or_else(|| dir("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("casemate")))
        .or_else(|| dir("HOME").map(|home| Path::new(&home).join(".cache/casemate")))
        .context("none of CASEMATE_CACHE, XDG_CACHE_HOME and HOME is set")
}

/// The kernel package that the lab and templates would be made from now.
///
/// # Errors
/// When apt offers none.
pub fn kernel_package() -> Result<String> {
    Ok(newest_package()?)
}

/// Gives the lab's image, making it when it is missing; `progress` hears of each phase.
///
/// # Errors
/// When a tool is missing or fails, or the packages cannot be had.
pub fn ensure(progress: &mut dyn FnMut(&str)) -> Result<Image> {
    let cache = cache_dir()?;
    progress("kernel");
    let kernel = fetch_kernel(&cache).context("the lab's kernel is missing")?;
    let packages = PACKAGES.join(",");
    let base_key = key(&[REVISION, SUITE, &packages]);
    let image_key = key(&[
        &base_key,
        &kernel.version,
        INITRD_INIT,
        LAB_INIT,
        ASSEMBLE,
        &INITRD_MODULES.join(","),
        &MODULES.join(","),
    ]);
    let lab = cache.join("lab");
    let place = cached(&lab, &format!("l1-{image_key}"), |draft| {
        progress("base system");
        let base = cached(&lab, &format!("base-{base_key}.tar"), |draft| {
            base_system(&packages, draft)
        })?;
        fs::create_dir(draft)?;
        let work = tempfile::tempdir_in(&lab)?;
        progress("initrd");
        let modules: Vec<String> = INITRD_MODULES.map(str::to_owned).to_vec();
        let spec = InitrdSpec {
            version_dir: &kernel.modules_dir,
            modules: &modules,
            init: INITRD_INIT,
        };
        write_initrd(spec, work.path(), &draft.join("initrd"))?;
        progress("modules");
        let ours = work.path().join("ours");
        lay_out(&kernel, &ours)?;
        progress("root image");
        assemble(&base, &ours, work.path(), &draft.join("root.erofs"))
    })?;
    Ok(Image {
        kernel: kernel.vmlinux,
        version: kernel.version,
        initrd: place.join("initrd"),
        root: place.join("root.erofs"),
    })
}

fn base_system(packages: &str, target: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command
        .arg(format!(
            "--mode={}",
            if is_root() { "root" } else { "unshare" }
        ))
        .args(["--variant=minbase", "--format=tar", "--skip=check/empty"])
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--aptopt=Acquire::Retries \"3\"")
        .arg(format!("--include={packages}"));
    for unwanted in ["man", "doc", "locale", "info"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{unwanted}/*"));
    }
    command
        .arg(
            "--customize-hook=chroot \"$1\" useradd --create-home --shell /bin/bash --uid 1000 \
             --groups kvm,video,input,render user",
        )
        .arg(SUITE)
        .arg(target);
    if fs::read_to_string(HOST_SOURCES).is_ok_and(|text| text.contains(SUITE)) {
        command.arg(HOST_SOURCES);
    }
    run(&mut command)
}

/// Our own files and the wanted modules, uncompressed because the lab would only spend time on it.
fn lay_out(kernel: &KernelFiles, ours: &Path) -> Result<()> {
    let sbin = ours.join("usr/sbin");
    let modules = ours.join("usr/lib/modules").join(&kernel.version);
    for dir in [&sbin, &modules, &ours.join("lab"), &ours.join("payload")] {
        fs::create_dir_all(dir)?;
    }
    let init = sbin.join("lab-init");
    fs::write(&init, LAB_INIT)?;
    run(Command::new("chmod").arg("755").arg(&init))?;
    let wanted: Vec<String> = MODULES.map(str::to_owned).to_vec();
    for file in resolve(&kernel.modules_dir, &wanted)? {
        let plain = file.with_extension("");
        let plain = if file.extension().is_some_and(|extension| extension == "ko") {
            &file
        } else {
            &plain
        };
        let target = modules.join(plain.strip_prefix(&kernel.modules_dir)?);
        fs::create_dir_all(target.parent().context("a module has a folder")?)?;
        decompress_module(&file, &target)?;
    }
    for list in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        fs::copy(kernel.modules_dir.join(list), modules.join(list))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{path}:/usr/sbin:/sbin");
    run(Command::new("depmod")
        .env("PATH", path)
        .arg("-b")
        .arg(ours.join("usr"))
        .arg(&kernel.version))
}

fn assemble(base: &Path, ours: &Path, work: &Path, image: &Path) -> Result<()> {
    let mut command = if is_root() {
        Command::new("sh")
    } else {
        Command::new("fakeroot")
    };
    if !is_root() {
        command.arg("sh");
    }
    run(command
        .args(["-c", ASSEMBLE, "assemble"])
        .arg(base)
        .arg(ours)
        .arg(work)
        .arg(image))
}

/// Gives `dir/name`, making it when it is missing: under a lock, and renamed only when it is whole.
fn cached(dir: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    let lock = File::create(dir.join(format!(".{name}.lock")))?;
    lock.lock()?;
    if path.exists() {
        return Ok(path);
    }
    let draft = dir.join(format!(".{name}.draft"));
    if draft.is_dir() {
        fs::remove_dir_all(&draft)?;
    }
    make(&draft).with_context(|| format!("cannot make {}", path.display()))?;
    fs::rename(&draft, &path)?;
    Ok(path)
}

/// Eight bytes of the digest of `inputs`, each with its length so that they cannot run together.
fn key(inputs: &[&str]) -> String {
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

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a tool; its last lines are the error when it fails.
fn run(command: &mut Command) -> Result<()> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!("cannot run {tool}; `cargo xtask setup` installs what the lab needs")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    let tail: Vec<&str> = lines.into_iter().rev().collect();
    bail!("{tool} failed ({}):\n{}", output.status, tail.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_build_leaves_nothing_and_a_good_one_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let failed = cached(dir.path(), "image", |draft| {
            fs::write(draft, "half")?;
            bail!("no")
        });
        assert!(failed.is_err() && !dir.path().join("image").exists());
        let make = |draft: &Path| Ok(fs::write(draft, "whole")?);
        let path = cached(dir.path(), "image", make).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "whole");
        cached(dir.path(), "image", |_| bail!("made twice")).unwrap();
    }

    #[test]
    fn inputs_do_not_run_together() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
