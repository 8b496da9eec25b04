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
            seccomp(),
            landlock(),
            cgroup(),
            runtime(),
            programs(),
            sound(),
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

/// Controllers that the limits of a VM need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The supervisor tries; here is only looked, because trying would move this process.
fn cgroup() -> Check {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_below(Path::new("/sys/fs/cgroup"), &groups)
}

/// Judges the groups `groups`, as `/proc/self/cgroup` lists them, mounted below `root`.
fn cgroup_below(root: &Path, groups: &str) -> Check {
    const NAME: &str = "cgroup";
    let lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let version_2 = lines
        .clone()
        .find(|(controllers, _)| controllers.is_empty())
        .map(|(_, path)| below(path))
        .filter(|own| own.join("cgroup.controllers").exists());
    if let Some(own) = version_2 {
        let given = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        let missing: Vec<_> = CONTROLLERS
            .into_iter()
            .filter(|name| !given.split_whitespace().any(|other| other == *name))
            .collect();
        if !missing.is_empty() {
            return Check::new(
                NAME,
                Grade::Warn,
                format!("version 2, without {} for this session", missing.join(", ")),
                "VMs run without limits on memory and processors; let systemd delegate: \
                 `systemctl edit user@.service`, [Service], Delegate=cpu memory pids, and log in again",
            );
        }
        return if writable(&own.join("cgroup.procs")) {
            Check::new(
                NAME,
                Grade::Ok,
                "version 2, delegated; each VM gets a group where the supervisor was started in a scope of its own",
                "",
            )
        } else {
            Check::new(
                NAME,
                Grade::Warn,
                format!("version 2, but {} is not ours", own.display()),
                "VMs run without limits on memory and processors; start the first one by \
                 `systemd-run --user --scope --property=Delegate=yes casemate start NAME`",
            )
        };
    }
    let unusable: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|name| {
            let own = lines
                .clone()
                .find(|(controllers, _)| controllers.split(',').any(|other| other == *name));
            !own.is_some_and(|(controllers, path)| {
                writable(&root.join(controllers).join(path.trim_start_matches('/')))
            })
        })
        .collect();
    if unusable.is_empty() {
        return Check::new(NAME, Grade::Ok, "version 1; each VM gets a group", "");
    }
    let detail = if lines
        .clone()
        .any(|(controllers, _)| !controllers.is_empty())
    {
        format!(
            "version 1, without the right to use {}",
            unusable.join(", ")
        )
    } else {
        "none".to_owned()
    };
    Check::new(
        NAME,
        Grade::Warn,
        detail,
        "VMs run without limits on memory and processors; boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The kernel must be able to report a system call that a vmm may not make.
fn seccomp() -> Check {
    let known = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let (grade, detail) = if known.split_whitespace().any(|action| action == "trap") {
        (Grade::Ok, "filters can be used")
    } else {
        (Grade::Fail, "no filters")
    };
    Check::new(
        "seccomp",
        grade,
        detail,
        "use a kernel with CONFIG_SECCOMP_FILTER",
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

/// Whether VMs with sound could be heard: the mixer, and a PipeWire where it looks for one.
fn sound() -> Check {
    const NAME: &str = "sound";
    if session::program("casemate-sound").is_none() {
        return Check::new(
            NAME,
            Grade::Warn,
            "missing: casemate-sound",
            "VMs with audio = true are silent; reinstall Casemate",
        );
    }
    let folder = env::var_os("PIPEWIRE_RUNTIME_DIR").or_else(|| env::var_os("XDG_RUNTIME_DIR"));
    let name = env::var_os("PIPEWIRE_REMOTE").unwrap_or_else(|| "pipewire-0".into());
    sound_at(&Path::new(&folder.unwrap_or_default()).join(name))
}

fn sound_at(socket: &Path) -> Check {
    let answers = std::os::unix::net::UnixStream::connect(socket);
    let (grade, detail) = match answers {
        Ok(_) => (Grade::Ok, "PipeWire answers".to_owned()),
        Err(error) => (
            Grade::Warn,
            format!("no PipeWire at {}: {error}", socket.display()),
        ),
    };
    Check::new(
        "sound",
        grade,
        detail,
        "VMs with audio = true are silent until there is one: apt install pipewire wireplumber, and log in again",
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_needs_somebody_who_listens() {
        let root = tempfile::tempdir().expect("a directory");
        let socket = root.path().join("pipewire-0");
        let silent = sound_at(&socket);
        assert_eq!(silent.result, Grade::Warn);
        assert!(silent.detail.contains("no PipeWire"), "{}", silent.detail);
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        assert_eq!(sound_at(&socket).result, Grade::Ok);
        drop(listener);
        assert_eq!(sound_at(&socket).result, Grade::Warn);
    }

    #[test]
    fn groups_are_judged_by_what_a_supervisor_could_do_with_them() {
        let root = tempfile::tempdir().expect("a directory");
        let own = root.path().join("user/scope");
        fs::create_dir_all(&own).expect("a directory");
        let judge = |groups: &str| cgroup_below(root.path(), groups);

        let none = judge("");
        assert_eq!((none.result, none.detail.as_str()), (Grade::Warn, "none"));
        fs::write(own.join("cgroup.controllers"), "memory pids\n").expect("a file");
        let poor = judge("0::/user/scope\n");
        assert!(poor.detail.contains("without cpu"), "{}", poor.detail);
        assert!(poor.hint.contains("Delegate="), "{}", poor.hint);
        fs::write(own.join("cgroup.controllers"), "cpu memory pids\n").expect("a file");
        let foreign = judge("0::/user/scope\n");
        assert!(foreign.detail.contains("not ours"), "{}", foreign.detail);
        fs::write(own.join("cgroup.procs"), "").expect("a file");
        assert_eq!(judge("0::/user/scope\n").result, Grade::Ok);

        // Version 1, where some trees may be written.
        let groups = "3:cpu,cpuacct:/a\n2:memory:/b\n1:pids:/c\n";
        let denied = judge(groups);
        assert!(
            denied.detail.contains("memory, pids, cpu"),
            "{}",
            denied.detail
        );
        for folder in ["cpu,cpuacct/a", "memory/b", "pids/c"] {
            fs::create_dir_all(root.path().join(folder)).expect("a directory");
        }
        assert_eq!(judge(groups).result, Grade::Ok);
    }
}
