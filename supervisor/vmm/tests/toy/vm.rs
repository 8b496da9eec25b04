//! A VM started as the supervisor starts one: descriptors by number, a control socket, a process in the background.

use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use casemate_link::PacketSocket;
use casemate_vm::{RamSize, VmClass, VmId};
use casemate_vmm_control::{
    Action, CpuModel, Event, KernelFormat, Launch, MAX_CONTROL, decode, encode, ring_log,
};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, WaitOptions};

use crate::payload::Access;

/// How long anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Length of the window memory.
const WINDOW: u64 = 1 << 20;

/// Files that a VM is started with, all of them inheritable.
pub(crate) struct Parts {
    kernel: OwnedFd,
    initrd: OwnedFd,
    pub(crate) window: OwnedFd,
    pub(crate) log: OwnedFd,
    listener: OwnedFd,
    pub(crate) id: VmId,
    address: rustix::net::SocketAddrUnix,
}

pub(crate) fn memory(name: &str, content: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::ALLOW_SEALING).expect("memfd");
    let mut file = std::fs::File::from(fd);
    file.write_all(content).expect("memory");
    file.into()
}

impl Parts {
    pub(crate) fn new(kernel: &[u8]) -> Self {
        Self::with_initrd(kernel, b"none")
    }

    pub(crate) fn with_initrd(kernel: &[u8], initrd: &[u8]) -> Self {
        let window = memory("window", &[]);
        rustix::fs::ftruncate(&window, WINDOW).expect("memory");
        let listener =
            rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("socket");
        // The kernel picks a free abstract name.
        rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new_unnamed()).expect("bind");
        rustix::net::listen(&listener, 4).expect("listen");
        let address = rustix::net::getsockname(&listener)
            .expect("bound")
            .try_into()
            .expect("a Unix address");
        Self {
            kernel: memory("kernel", kernel),
            initrd: memory("initrd", initrd),
            window,
            log: memory("log", &[]),
            listener,
            id: VmId(3),
            address,
        }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch {
            name: "toy".parse().expect("a name"),
            id: self.id,
            class: VmClass::Cloneable,
            memory: RamSize::MIN,
            vcpus: 2_u8.try_into().expect("a number of vCPUs"),
            cpu: CpuModel::Host,
            cmdline: "quiet".to_owned(),
            kernel: self.kernel.as_raw_fd(),
            kernel_format: KernelFormat::Elf,
            initrd: self.initrd.as_raw_fd(),
            disks: Vec::new(),
            window_memory: Some(self.window.as_raw_fd()),
            console_log: self.log.as_raw_fd(),
            control: self.listener.as_raw_fd(),
            networks: Vec::new(),
            balloon: false,
            restore: None,
            assigned: None,
            links: Vec::new(),
            kvm: None,
        }
    }
}

/// Runs the launcher to its end.
pub(crate) fn start(launch: &Launch) -> Output {
    start_described(&encode(launch))
}

/// Runs the launcher with any description to its end.
pub(crate) fn start_described(description: &[u8]) -> Output {
    let description = memory("launch", description);
    rustix::io::fcntl_setfd(&description, FdFlags::empty()).expect("open");
    // Elsewhere than where it was built when a test runs in the lab.
    let program = std::env::var_os("CASEMATE_VMM")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_casemate-vmm").into());
    Command::new(program)
        .args(["--launch", &description.as_raw_fd().to_string()])
        .output()
        .expect("the program was built")
}

/// Connects to the control socket of a VM; waiting for an event has a limit.
fn connect(parts: &Parts) -> PacketSocket {
    let control = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("socket");
    rustix::net::connect(&control, &parts.address).expect("it listens");
    let kind = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&control, kind, Some(LIMIT)).expect("a timeout");
    control.into()
}

/// A VM that runs.
pub(crate) struct Vm {
    pub(crate) pid: Pid,
    control: PacketSocket,
    ended: bool,
}

impl Drop for Vm {
    /// A test that fails leaves no VM behind.
    fn drop(&mut self) {
        if !self.ended {
            let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
        }
    }
}

impl Vm {
    /// Starts a VM; when its launcher ends, the VM's process becomes our child.
    pub(crate) fn start(parts: &Parts) -> Self {
        Self::start_as(parts, &parts.launch())
    }

    /// Starts a VM that is described otherwise.
    pub(crate) fn start_as(parts: &Parts, launch: &Launch) -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("allowed");
        let output = start(launch);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let pid = answer["pid"].as_i64().expect("a number");
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not zero");
        let control = connect(parts);
        let vm = Self {
            pid,
            control,
            ended: false,
        };
        match vm.event() {
            Event::State { pid: known, .. } => {
                assert_eq!(known, u32::try_from(pid.as_raw_nonzero().get()).ok());
            }
            other => panic!("{other:?} came first"),
        }
        vm
    }

    /// Connects as the next supervisor does; the connection before it ends.
    pub(crate) fn reconnect(&mut self, parts: &Parts) {
        let before = std::mem::replace(&mut self.control, connect(parts));
        assert!(matches!(self.event(), Event::State { .. }));
        assert!(matches!(
            before.receive(MAX_CONTROL),
            Err(casemate_link::Error::Closed)
        ));
    }

    pub(crate) fn act(&self, action: &Action) {
        self.act_with(action, &[]);
    }

    pub(crate) fn act_with(&self, action: &Action, descriptors: &[BorrowedFd<'_>]) {
        let message = encode(action);
        self.control.send(&message, descriptors).expect("it reads");
    }

    pub(crate) fn event(&self) -> Event {
        let packet = self.control.receive(MAX_CONTROL).expect("an event");
        decode(&packet.bytes, MAX_CONTROL).expect("of the protocol")
    }

    /// Waits for the end of the process; its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        let (_, status) = rustix::process::waitpid(Some(self.pid), WaitOptions::empty())
            .expect("our child")
            .expect("it ended");
        self.ended = true;
        status.exit_status()
    }
}

/// Has the guest read from a port, or write to it.
pub(crate) fn port(parts: &Parts, access: Access, port: u16, value: u32) -> u32 {
    let words = [u32::from(port), value].map(u32::to_le_bytes).concat();
    rustix::io::pwrite(&parts.window, &words, 8).expect("memory");
    rustix::io::pwrite(&parts.window, &[access as u8], 0).expect("memory");
    eventually("an access to a port", || peek(&parts.window, 0)[0] == 0);
    u32::from_le_bytes(peek(&parts.window, 12))
}

/// Bytes of the window memory.
pub(crate) fn peek(file: impl AsFd, offset: u64) -> [u8; 4] {
    let mut bytes = [0; 4];
    rustix::io::pread(file, &mut bytes, offset).expect("memory");
    bytes
}

pub(crate) fn printed(parts: &Parts) -> String {
    let mut file = vec![0; ring_log::HEADER_LEN + ring_log::RING_LEN];
    let len = rustix::io::pread(&parts.log, &mut file, 0).expect("memory");
    let bytes = ring_log::RingLog::read_all(&file[..len]).expect("the VM wrote a header");
    String::from_utf8(bytes).expect("text")
}

/// Looks again until it is so, or the limit is over.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
