//! The only place that starts processes: vmms, which report their pid and go on by themselves, and the two services.
//!
//! Nothing is inherited but what is listed: descriptors are close-on-exec everywhere, and the environment is built anew.

mod sub_ids;

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use casemate_vmm_control::{Launch, encode};
use command_fds::CommandFdExt;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    cgroup::{self, Group},
    handover::Descriptors,
    own_file,
    refusal::{Kind, Refusal},
};

/// How long a vmm may take to say its pid: it opens KVM and makes its jail meanwhile.
const PID_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest line on which a vmm says its pid.
const MAX_PID_LINE: u64 = 256;

/// How much of a program's last words is shown, in bytes.
const TAIL: u64 = 2048;

/// The exit code with which a vmm says that the machine lacks something: KVM, memory.
const NO_RESOURCES: i32 = 8;

/// Variables that the services keep.
const KEPT: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "LANG",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "LIBSEAT_BACKEND",
    "SEATD_SOCK",
    "PIPEWIRE_REMOTE",
    "PIPEWIRE_RUNTIME_DIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    pid: u32,
}

/// Starts a vmm in its group and returns its pid. `log` gets what it says on stderr, also later.
pub(crate) async fn vmm(
    program: &Path,
    launch: &Launch,
    files: Descriptors,
    group: &Group,
    log: &Path,
) -> Result<u32, Refusal> {
    let open_log = open_log(log, true).map_err(|error| Refusal::io("no log file", &error))?;
    let description =
        description_file(launch).map_err(|error| Refusal::io("no launch description", &error))?;
    let (number, mappings) = files.finish(description);
    let mut command = confined(program, group)
        .map_err(|error| Refusal::io("cannot tell where this program lies", &error))?;
    if let Some(own) = sub_ids::of(launch.id) {
        command.arg("--own-user").arg(own);
    }
    command
        .arg("--launch")
        .arg(number.to_string())
        .env_clear()
        .envs(kept(&["RUST_LOG", "RUST_BACKTRACE"]))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(open_log)
        .kill_on_drop(true)
        .fd_mappings(mappings)
        .map_err(|error| Refusal::failed(format!("{error}")))?;
    let child = command
        .spawn()
        .map_err(|error| Refusal::io(format!("cannot run {}", program.display()), &error))?;
    // The command holds our copies of what the vmm alone should hold.
    drop(command);
    match timeout(PID_TIMEOUT, first_words(child)).await {
        Ok(result) => result.map_err(|(kind, what)| {
            let words = last_words(log);
            let text = if words.is_empty() { what } else { words };
            Refusal::new(kind, text)
        }),
        Err(_) => Err(Refusal::new(
            Kind::TimedOut,
            "its vmm said nothing for 30 seconds and was ended",
        )),
    }
}

/// A command that enters a group before it becomes `program`.
fn confined(program: &Path, group: &Group) -> io::Result<Command> {
    if group.entrances.is_empty() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("confine");
    for entrance in &group.entrances {
        command.arg("--entrance").arg(entrance);
    }
    command.arg(program);
    Ok(command)
}

/// The other half of it: enters the groups and becomes `program`. Returns only when that fails.
pub(crate) fn confine(entrances: &[PathBuf], program: &Path, arguments: &[String]) -> io::Error {
    match cgroup::enter(entrances) {
        Ok(()) => std::process::Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}

/// Reads the pid and waits for the end of the launching process.
async fn first_words(mut child: Child) -> Result<u32, (Kind, String)> {
    let failed = |what: String| (Kind::Failed, what);
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| failed("its vmm has no stdout".to_owned()))?;
    let mut line = String::new();
    let read = BufReader::new(stdout.take(MAX_PID_LINE))
        .read_line(&mut line)
        .await;
    let status = child
        .wait()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let kind = if status.code() == Some(NO_RESOURCES) {
            Kind::NoResources
        } else {
            Kind::Failed
        };
        return Err((kind, format!("its vmm ended with {status} and no word")));
    }
    read.map_err(|error| failed(error.to_string()))?;
    serde_json::from_str::<Hello>(line.trim())
        .map(|hello| hello.pid)
        .map_err(|_| failed("its vmm did not say its pid".to_owned()))
}

/// Starts one of the services in a session of its own, so that it may outlive the supervisor.
pub(crate) fn service(
    program: &Path,
    arguments: &[String],
    stdin: Stdio,
    log: &Path,
) -> io::Result<Child> {
    let log = open_log(log, false)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("detach")
        .arg(program)
        .args(arguments)
        .env_clear()
        .envs(kept(KEPT))
        .envs(std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            name.starts_with("XDG_") || name.starts_with("CASEMATE_")
        }))
        .current_dir("/")
        .stdin(stdin)
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn()
}

/// The other half of [`service`]: becomes `program` in a new session. Returns only when that fails.
pub(crate) fn detach(program: &Path, arguments: &[String]) -> io::Error {
    if let Err(errno) = rustix::process::setsid() {
        return errno.into();
    }
    std::process::Command::new(program).args(arguments).exec()
}

/// How a service that ended at once explains itself.
pub(crate) fn explain(program: &str, status: ExitStatus, log: &Path) -> String {
    let words = last_words(log);
    if words.is_empty() {
        format!(
            "{program} ended at once with {status}; its log is {}",
            log.display()
        )
    } else {
        format!("{program} ended at once: {words}")
    }
}

fn kept(
    names: &'static [&'static str],
) -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    names
        .iter()
        .filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

fn description_file(launch: &Launch) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("casemate-launch", MemfdFlags::CLOEXEC)?);
    file.write_all(&encode(launch))?;
    file.rewind()?;
    Ok(file.into())
}

/// Opens a log for appending, empty when `fresh` or when it has grown large.
fn open_log(path: &Path, fresh: bool) -> io::Result<File> {
    /// Beyond this a service's old log is dropped at its next start, in bytes.
    const LARGE: u64 = 4 * 1024 * 1024;
    let file = own_file::open(path, true)?;
    if fresh || file.metadata()?.len() > LARGE {
        file.set_len(0)?;
    }
    Ok(file)
}

/// The last lines of a log, printable, on one line.
fn last_words(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines
        .get(lines.len().saturating_sub(3)..)
        .unwrap_or_default();
    last.join("; ")
        .chars()
        .map(|c| if c.is_control() { '_' } else { c })
        .collect()
}
