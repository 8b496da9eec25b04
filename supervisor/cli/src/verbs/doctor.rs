//! `casemate doctor`

use std::{
    env,
    fs::{self, OpenOptions},
    io,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use serde::Serialize;

use crate::{failure::Failure, output, session};

/// Check whether this machine has what Casemate needs, and say what to do about the rest
///
/// Exits with 1 when something is missing without which no VM starts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write an object: version, ok, checks (name, result ok|warn|fail, detail, hint)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    ok: bool,
    checks: Vec<Check>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    /// Something does not work without it.
    Warn,
    /// No VM starts without it.
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    result: Grade,
    detail: String,
    hint: String,
}

impl Check {
    fn new(name: &'static str, result: Grade, detail: impl Into<String>, hint: &str) -> Self {
        Self {
            name,
            result,
            detail: detail.into(),
            hint: if result == Grade::Ok {
                String::new()
            } else {
                hint.to_owned()
            },
        }
    }
}

impl Args {
    #[expect(clippy::unused_async, reason = "all verbs look alike")]
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let checks = vec![
            kvm(),
            user_namespaces(),
            landlock(),
            cgroup(),
            runtime(),
            programs(),
            template_tools(),
            memory(),
        ];
        let ok = checks.iter().all(|check| check.result != Grade::Fail);
        if self.json {
            output::json(&Report {
                version: 1,
                ok,
                checks,
            })?;
        } else {
            let rows: Vec<_> = checks
                .into_iter()
                .map(|check| {
                    let grade = match check.result {
                        Grade::Ok => "ok",
                        Grade::Warn => "warn",
                        Grade::Fail => "FAIL",
                    };
                    let text = match check.hint.as_str() {
                        "" => check.detail,
                        hint => format!("{}: {hint}", check.detail),
                    };
                    [check.name.to_owned(), grade.to_owned(), text]
                })
                .collect();
            output::table(["CHECK", "RESULT", "DETAIL"], &rows)?;
        }
        Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn kvm() -> Check {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let hint = match opened.as_ref().map_err(io::Error::kind) {
        Err(io::ErrorKind::PermissionDenied) => "add yourself to the group kvm and log in again",
        _ => "switch virtualization on in the firmware, and load the module kvm_intel or kvm_amd",
    };
    match &opened {
        Ok(_) => Check::new("kvm", Grade::Ok, "/dev/kvm can be used", hint),
        Err(error) => Check::new("kvm", Grade::Fail, format!("/dev/kvm: {error}"), hint),
    }
}

/// Tried rather than read from settings: there are too many of them, and they differ by distribution.
fn user_namespaces() -> Check {
    let name = "user namespaces";
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match tried {
        Ok(status) if status.success() => Check::new(name, Grade::Ok, "can be made", ""),
        Ok(_) => Check::new(
            name,
            Grade::Fail,
            "cannot be made",
            "allow them: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns",
        ),
        Err(error) => Check::new(
            name,
            Grade::Warn,
            format!("could not be tried: unshare: {error}"),
            "install util-linux",
        ),
    }
}

fn landlock() -> Check {
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let (grade, detail) = if active.split(',').any(|name| name.trim() == "landlock") {
        (Grade::Ok, "active")
    } else {
        (Grade::Warn, "not active, or not visible here")
    };
    Check::new(
        "landlock",
        grade,
        detail,
        "VMs are confined without it too, but by one layer less; add landlock to the kernel's lsm= list",
    )
}

fn cgroup() -> Check {
    let (grade, detail) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        (Grade::Ok, "version 2")
    } else {
        (Grade::Warn, "version 2 is not mounted")
    };
    Check::new(
        "cgroup",
        grade,
        detail,
        "boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn runtime() -> Check {
    let runtime = session::runtime();
    let parent = runtime.parent().unwrap_or(Path::new("/"));
    let (grade, detail) = match fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => (Grade::Ok, parent.display().to_string()),
        _ => (Grade::Fail, format!("{} does not exist", parent.display())),
    };
    Check::new(
        "runtime directory",
        grade,
        detail,
        "log in through a session that sets XDG_RUNTIME_DIR",
    )
}

fn programs() -> Check {
    let names = [
        "casemated",
        "casemate-vmm",
        "casemate-qrexec",
        "casemate-compositor",
    ];
    let missing: Vec<&str> = names
        .into_iter()
        .filter(|name| session::program(name).is_none())
        .collect();
    if missing.is_empty() {
        Check::new("programs", Grade::Ok, "all are there", "")
    } else {
        let detail = format!("missing: {}", missing.join(", "));
        Check::new("programs", Grade::Fail, detail, "reinstall Casemate")
    }
}

fn template_tools() -> Check {
    let names = [
        "mmdebstrap",
        "fakeroot",
        "mkfs.ext4",
        "busybox",
        "depmod",
        "dpkg-deb",
        "apt-get",
    ];
    let mut folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    let missing: Vec<&str> = names
        .into_iter()
        .filter(|name| !folders.iter().any(|folder| folder.join(name).is_file()))
        .collect();
    if missing.is_empty() {
        Check::new("template tools", Grade::Ok, "all are there", "")
    } else {
        Check::new(
            "template tools",
            Grade::Warn,
            format!("missing: {}", missing.join(", ")),
            "`casemate template build` needs them: apt install mmdebstrap fakeroot e2fsprogs busybox-static kmod",
        )
    }
}

fn memory() -> Check {
    /// Two small VMs and the host's own programs.
    const WANTED_KIB: u64 = 2 * 1024 * 1024;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    match available {
        Some(kib) => Check::new(
            "memory",
            if kib >= WANTED_KIB {
                Grade::Ok
            } else {
                Grade::Warn
            },
            format!("{} MiB available", kib / 1024),
            "close other programs, or give VMs less memory",
        ),
        None => Check::new(
            "memory",
            Grade::Warn,
            "unknown",
            "/proc/meminfo cannot be read",
        ),
    }
}
