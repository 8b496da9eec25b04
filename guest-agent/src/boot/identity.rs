//! The VM's own name, given by the supervisor on the kernel command line.

use std::fs;

use anyhow::Context;

/// Key of the name on the kernel command line.
const KEY: &str = "casemate.name=";

/// Sets the host name.
pub(crate) fn run() -> anyhow::Result<()> {
    let cmdline =
        fs::read_to_string("/proc/cmdline").context("cannot read the kernel command line")?;
    let Some(name) = name_in(&cmdline) else {
        anyhow::bail!("the kernel command line has no {KEY}NAME; was this VM started by Casemate?");
    };
    take(name)
}

/// Takes on a name that was checked to be one.
pub(crate) fn take(name: &str) -> anyhow::Result<()> {
    nix::unistd::sethostname(name).context("cannot set the host name")?;
    fs::write("/etc/hostname", format!("{name}\n")).context("cannot write /etc/hostname")?;
    let hosts = format!("127.0.0.1 localhost {name}\n::1 localhost {name}\n");
    fs::write("/etc/hosts", hosts).context("cannot write /etc/hosts")
}

fn name_in(cmdline: &str) -> Option<&str> {
    cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix(KEY))
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found() {
        assert_eq!(name_in("quiet casemate.name=work panic=-1\n"), Some("work"));
        assert_eq!(name_in("quiet casemate.name="), None);
        assert_eq!(name_in("xcasemate.name=work"), None);
    }
}
