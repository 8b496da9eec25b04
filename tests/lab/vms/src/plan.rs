//! What is to be measured, written by `cargo xtask bench vmm`, and the figures that come back, one JSON a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where the lab sees what the plan names by relative paths.
    pub payload: PathBuf,
    /// How often each piece of work is done.
    pub runs: u32,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The command line of the work `boot`, without the console.
    pub cmdline: String,
    /// The command line of `boot-default-cmdline`: what our templates boot with, without the console.
    pub default_cmdline: String,
    /// Other monitors.
    pub peers: Vec<Peer>,
    /// Names of the works that are wanted; none is all.
    pub only: Vec<String>,
    /// Whether to say of each work of a device which threads did it.
    #[serde(default)]
    pub profile: bool,
}

/// Another monitor: a program that boots a guest whose serial port is its standard output.
///
/// In `arguments` and `config`, `{kernel}`, `{initrd}`, `{disk}`, `{cmdline}`, `{memory}` (MiB) and `{folder}` (an empty
/// folder of its own, in memory) are filled in; `{config}` is a file with the text of `config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The name in the table.
    pub name: String,
    /// The program, relative to the payload.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Text of a configuration file.
    #[serde(default)]
    pub config: Option<String>,
    /// More arguments when the guest is to have a network: `{network}` is the number of an inherited stream socket that
    /// carries each frame after its length, four bytes in network order. Without any, no device of it is measured.
    #[serde(default)]
    pub network: Vec<String>,
    /// The guest's console on its kernel command line.
    #[serde(default = "serial")]
    pub console: String,
    /// A folder of libraries for it, relative to the payload.
    #[serde(default)]
    pub libraries: Option<PathBuf>,
}

fn serial() -> String {
    "console=ttyS0".to_owned()
}

/// One figure, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was done.
    pub work: String,
    /// Unit of the value.
    pub unit: String,
    /// By whom: `casemate`, or the name of a peer.
    pub who: String,
    /// The figure.
    pub value: Result<f64, String>,
}

/// The kernel of the work `boot-standard-kernel`, relative to the payload. May be missing.
pub const STANDARD_KERNEL: &str = "guest/vmlinux-standard";

/// How our own figures are called.
pub const OURS: &str = "casemate";
