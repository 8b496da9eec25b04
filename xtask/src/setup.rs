//! `cargo xtask setup`: the Debian packages that building, testing and the lab need. It installs what
//! is missing, says what, and does nothing the second time.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::run::succeed;

/// Packages and what for.
const PACKAGES: [(&str, &[&str]); 5] = [
    (
        "building",
        &[
            "pkg-config",
            "libxkbcommon-dev",
            "libpixman-1-dev",
            "libudev-dev",
            "libinput-dev",
            "libseat-dev",
            "libgbm-dev",
            "libdrm-dev",
            // The mixer, whose binding to C is made while building.
            "libpipewire-0.3-dev",
            "libclang-dev",
        ],
    ),
    (
        "templates and the lab's image",
        &[
            "mmdebstrap",
            "erofs-utils",
            "e2fsprogs",
            "busybox-static",
            "zstd",
            "xz-utils",
            "cpio",
            "kmod",
            "fakeroot",
            "uidmap",
            "debian-archive-keyring",
        ],
    ),
    (
        "native tests with real programs",
        &[
            "xkb-data",
            "fonts-dejavu-core",
            "foot",
            "gtk-4-examples",
            "dbus-daemon",
            "pipewire",
            "pipewire-bin",
        ],
    ),
    // The fuzzer's own library is C++.
    ("fuzz targets", &["g++"]),
    ("the lab", &["qemu-system-x86", "qemu-utils"]),
];

/// Two packages of one source: Debian lets neither be of another version than the other, and a machine
/// may have the second from elsewhere, newer.
const SAME_VERSION: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

/// Install the Debian packages that building, testing and the lab need.
#[derive(Debug, Default, Args)]
pub(crate) struct Arguments {
    /// Only say what is missing; fail when something is.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        println!("setup: nothing to do, all packages are installed");
        return Ok(());
    }
    for (purpose, names) in PACKAGES {
        let names: Vec<_> = names
            .iter()
            .filter(|name| missing.contains(name))
            .copied()
            .collect();
        if !names.is_empty() {
            println!("setup: for {purpose}: {}", names.join(" "));
        }
    }
    if arguments.check {
        bail!(
            "{} packages are missing; `cargo xtask setup` installs them",
            missing.len()
        );
    }
    install(&missing)
}

/// The packages that are not installed.
pub(crate) fn missing() -> Result<Vec<&'static str>> {
    let all = PACKAGES.iter().flat_map(|(_, names)| names.iter().copied());
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .stderr(Stdio::null())
        .output()
        .context("cannot run dpkg-query; setup knows Debian only, install by hand what it lists")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed = |name: &str| text.lines().any(|line| line == format!("{name} installed"));
    Ok(all.filter(|name| !installed(name)).collect())
}

fn install(names: &[&str]) -> Result<()> {
    succeed(apt().arg("update"))?;
    let mut words: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    if names.iter().any(|name| SAME_VERSION.contains(name)) {
        let version = candidate(SAME_VERSION[0])?;
        words.retain(|word| !SAME_VERSION.contains(&word.as_str()));
        words.extend(SAME_VERSION.map(|name| format!("{name}={version}")));
    }
    succeed(
        apt()
            .args([
                "install",
                "--yes",
                "--no-install-recommends",
                "--allow-downgrades",
            ])
            .args(words),
    )
}

/// apt-get as root: directly, or through sudo.
fn apt() -> Command {
    let mut command = if is_root() {
        Command::new("env")
    } else {
        Command::new("sudo")
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    command
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout == b"0\n")
}

/// The version that apt would install.
fn candidate(package: &str) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["policy", package])
        .env("LC_ALL", "C")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "));
    version
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
        .with_context(|| format!("apt offers no package {package}; add Debian's sources"))
}
