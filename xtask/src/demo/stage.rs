//! Where the demo runs: in the lab, or on this machine when it has KVM itself.

use std::fs::{self, File};

use anyhow::{Result, bail};

use super::Arguments;

/// Where the demo runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In an emulated machine with a screen of its own.
    Lab,
    /// On this machine, the compositor headless; the demo types and clicks over its bus.
    Headless,
    /// On this machine, in a window of its desktop; only a person can type and click there.
    Window,
}

impl Stage {
    /// What the arguments say, and else what the machine has.
    pub(super) fn choose(arguments: &Arguments) -> Result<Self> {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if arguments.window && !(set("WAYLAND_DISPLAY") || set("DISPLAY")) {
            bail!("--window needs a desktop: neither WAYLAND_DISPLAY nor DISPLAY is set");
        }
        let native = arguments.native || (!arguments.lab && has_kvm());
        match (native, arguments.window) {
            (true, true) => Ok(Self::Window),
            (true, false) => Ok(Self::Headless),
            (false, false) => Ok(Self::Lab),
            (false, true) => bail!(
                "--window needs KVM: vmx or svm in /proc/cpuinfo, and a /dev/kvm that you may open"
            ),
        }
    }

    /// Whether it runs on this machine.
    pub(super) fn native(self) -> bool {
        self != Self::Lab
    }

    /// The backend of the compositor, in the words of its settings.
    pub(super) fn backend(self) -> &'static str {
        match self {
            Self::Lab => "kms",
            Self::Headless => "headless",
            Self::Window => "window",
        }
    }

    /// How long a VM may take to start, in seconds: under emulation, minutes.
    pub(super) fn start_timeout(self) -> u32 {
        if self.native() { 120 } else { 600 }
    }
}

/// Whether VMs can run on this machine, and we may run them.
fn has_kvm() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = processor
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm");
    let mut kvm = File::options();
    able && kvm.read(true).write(true).open("/dev/kvm").is_ok()
}
