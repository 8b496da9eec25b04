//! Our own monitor, started as the supervisor starts it: descriptors by number, a control socket, a jail.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_link::PacketSocket;
use casemate_vmm_control::{Action, Event, MAX_CONTROL, decode, encode};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, Signal, WaitOptions};
use serde_json::json;

use crate::console::Console;
use crate::exec::ExecTime;

/// Bytes of window memory: what the supervisor gives.
const WINDOW_MEMORY: u64 = 256 << 20;
/// vsock CID.
const CID: u32 = 3;
/// How long the monitor may take to answer. Under emulation all is slow.
const ANSWER: Duration = Duration::from_secs(240);

/// A VM to be started, with every device that the supervisor gives, and a balloon.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The monitor.
    pub program: &'a Path,
    /// ELF kernel.
    pub kernel: &'a Path,
    /// Its initrd.
    pub initrd: &'a Path,
    /// A disk that is only read.
    pub disk: &'a Path,
    /// Folder in memory for its console log, which may be used again when its VM is gone.
    pub folder: &'a Path,
    /// Kernel command line.
    pub cmdline: &'a str,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u8,
    /// The monitor's end of a user-mode network, when the VM is to have one.
    pub network: Option<OwnedFd>,
    /// What it goes on from instead of booting.
    pub restore: Option<Restore>,
    /// User and group that it runs as, when we are root.
    pub account: Option<(u32, u32)>,
}

/// The files of a snapshot, and its key in hexadecimal digits.
#[derive(Debug)]
pub struct Restore {
    /// State, only to be read.
    pub state: OwnedFd,
    /// Memory, only to be read.
    pub memory: OwnedFd,
    /// What seals the state.
    pub key: &'static str,
    /// Pages that are given at once.
    pub working_set: Option<OwnedFd>,
}

/// A running VM. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    /// Where the guest prints.
    pub console: Console,
    /// When the monitor began: at its `exec`.
    pub began: Instant,
    /// The broker's end of its link.
    pub broker: PacketSocket,
    pid: Pid,
    control: PacketSocket,
    ended: bool,
    /// The compositor's end: the guest would see its loss.
    _compositor: PacketSocket,
}

impl Vm {
    /// Starts a VM; returns when it runs.
    ///
    /// # Errors
    /// When the monitor says so, or what it is made of is missing.
    pub fn start(setup: Setup<'_>) -> Result<Self> {
        let log = setup.folder.join("console");
        std::fs::write(&log, "")?;
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
        // The kernel picks a free abstract name.
        rustix::net::bind(&listener, &SocketAddrUnix::new_unnamed())?;
        rustix::net::listen(&listener, 4)?;
        let address: SocketAddrUnix = rustix::net::getsockname(&listener)?.try_into()?;
        let (vmm_broker, broker) = PacketSocket::pair()?;
        let (vmm_compositor, compositor) = PacketSocket::pair()?;
        let mut files = Files::default();
        // As JSON, as it goes over the wire: what is not named has its default.
        let mut launch = json!({
            "name": "lab",
            "id": CID,
            "memory": setup.memory_mib,
            "vcpus": setup.vcpus,
            "cmdline": setup.cmdline,
            "kernel": files.open(setup.kernel)?,
            "initrd": files.open(setup.initrd)?,
            "disks": [{
                "serial": "root",
                "read_only": true,
                "format": { "raw": { "file": files.open(setup.disk)? } },
            }],
            "networks": match setup.network {
                Some(end) => json!([{
                    "mac": "02:00:00:00:00:01",
                    "wire": { "stream": { "file": files.add(end)? } },
                }]),
                None => json!([]),
            },
            "balloon": true,
            "window_memory": files.add(window_memory()?)?,
            "console_log": files.add(File::options().read(true).write(true).open(&log)?)?,
            "control": files.add(listener)?,
            "links": [
                { "kind": "rpc", "file": files.add(vmm_broker)? },
                { "kind": "windows", "file": files.add(vmm_compositor)? },
            ],
            "kvm": null,
        });
        if let (Some(restore), Some(table)) = (setup.restore, launch.as_object_mut()) {
            let mut described = json!({
                "state": files.add(restore.state)?,
                "memory": files.add(restore.memory)?,
                "key": restore.key,
                "taken_from": CID,
            });
            if let (Some(set), Some(table)) = (restore.working_set, described.as_object_mut()) {
                table.insert("working_set".to_owned(), files.add(set)?.into());
            }
            table.insert("restore".to_owned(), described);
        }
        let description = memory("launch", &serde_json::to_vec(&launch)?)?;
        let number = files.add(description)?;
        let mut command = Command::new(setup.program);
        command
            .args(["--launch", &number.to_string()])
            .stdin(Stdio::null());
        if let Some((user, group)) = setup.account {
            command.uid(user).gid(group);
        }
        let mut console = Console::ring(&log)?;
        // When its launcher ends, the VM's process becomes our child.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let exec = ExecTime::of(&mut command)?;
        let output = command.output().context("cannot run the monitor")?;
        let began = exec.get()?;
        drop(files);
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let pid = answer.get("pid").and_then(serde_json::Value::as_i64);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.context("the monitor gave no process id")?;
        console.watch_process(pid)?;
        let mut vm = Self {
            console,
            began,
            broker,
            pid,
            control: connect(&address)?,
            ended: false,
            _compositor: compositor,
        };
        vm.event()?;
        Ok(vm)
    }

    /// The process of the VM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Asks the monitor for something.
    ///
    /// # Errors
    /// When it has gone.
    pub fn act(&self, action: &Action) -> Result<()> {
        self.order(&encode(action), &[])
    }

    /// Sends a message as it is, with descriptors beside it.
    ///
    /// # Errors
    /// When it has gone.
    pub fn order(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        Ok(self.control.send(message, descriptors)?)
    }

    /// What the monitor says next.
    ///
    /// # Errors
    /// When it has gone or says nothing.
    pub fn event(&mut self) -> Result<Event> {
        let packet = self.control.receive(MAX_CONTROL)?;
        Ok(decode(&packet.bytes, MAX_CONTROL)?)
    }

    /// Waits for the end of the process; its exit code.
    ///
    /// # Errors
    /// When a signal ended it.
    pub fn wait(mut self) -> Result<i32> {
        let ended = rustix::process::waitpid(Some(self.pid), WaitOptions::empty())?;
        self.ended = true;
        let (_, status) = ended.context("no child")?;
        status
            .exit_status()
            .with_context(|| format!("the monitor ended with {status:?}"))
    }

    /// Ends it, and looks whether it ends as asked.
    ///
    /// # Errors
    /// When it does not.
    pub fn kill(mut self) -> Result<()> {
        self.act(&Action::Kill)?;
        match self.event()? {
            Event::Stopped { .. } => {}
            other => bail!("{other:?} instead of an end"),
        }
        match self.wait()? {
            0 => Ok(()),
            code => bail!("the monitor ended with {code}"),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if !self.ended {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

/// Descriptors that the monitor inherits.
#[derive(Debug, Default)]
struct Files(Vec<OwnedFd>);

impl Files {
    fn add(&mut self, file: impl Into<OwnedFd>) -> Result<i32> {
        let file = file.into();
        rustix::io::fcntl_setfd(&file, FdFlags::empty())?;
        let number = file.as_raw_fd();
        self.0.push(file);
        Ok(number)
    }

    fn open(&mut self, path: &Path) -> Result<i32> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        self.add(file)
    }
}

fn memory(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(file.into())
}

fn window_memory() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("window", flags)?;
    rustix::fs::ftruncate(&file, WINDOW_MEMORY)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn connect(address: &SocketAddrUnix) -> Result<PacketSocket> {
    let control = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&control, address)?;
    sockopt::set_socket_timeout(&control, sockopt::Timeout::Recv, Some(ANSWER))?;
    Ok(control.into())
}
