//! A VM started as the supervisor starts one: descriptors by number, a control socket, a process in the background.

use std::cell::RefCell;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use casemate_link::PacketSocket;
use casemate_vm::{RamSize, VmClass, VmId};
use casemate_vmm_control::{
    Action, CpuModel, Disk, DiskFormat, Event, KernelFormat, Launch, LaunchLink, LinkKind,
    MAX_CONTROL, Network, Sound, WireFile, decode, encode, ring_log,
};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
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
    kvm: OwnedFd,
    /// Everything else, when there is anything else.
    rest: Option<Rest>,
}

/// What a VM with every device has besides.
struct Rest {
    overlay: OwnedFd,
    base: OwnedFd,
    installer: OwnedFd,
    /// The vmm's ends, and the others, which stay open.
    cable: [OwnedFd; 2],
    speaker: [OwnedFd; 2],
    rpc: [OwnedFd; 2],
    windows: [OwnedFd; 2],
}

pub(crate) fn memory(name: &str, content: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::ALLOW_SEALING).expect("memfd");
    let mut file = std::fs::File::from(fd);
    file.write_all(content).expect("memory");
    file.into()
}

/// Says why nothing is tested on a machine without KVM.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn has_kvm() -> bool {
    let opened = open_kvm();
    if let Err(error) = &opened {
        println!("skipped: /dev/kvm: {error}");
    }
    opened.is_ok()
}

/// `/dev/kvm`, inheritable.
fn open_kvm() -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/kvm", OFlags::RDWR, Mode::empty())?)
}

/// The same file, only to be read.
fn read_only(file: &OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).expect("it is open")
}

pub(crate) fn pair() -> [OwnedFd; 2] {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::empty(),
        None,
    )
    .expect("sockets")
    .into()
}

impl Rest {
    fn new() -> Self {
        use imago::qcow2::Qcow2CreateBuilder;
        use imago::{FormatCreateBuilder as _, StorageOpenOptions};
        const SIZE: u64 = 1 << 20;
        let base = memory("base", &vec![0; usize::try_from(SIZE).expect("small")]);
        let overlay = memory("overlay", &[]);
        let copy = std::fs::File::from(overlay.try_clone().expect("a descriptor"));
        let image = imago::file::File::from_open_file(copy, StorageOpenOptions::new().write(true))
            .expect("a file");
        Qcow2CreateBuilder::<imago::file::File>::new(image)
            .size(SIZE)
            .create()
            .expect("an overlay");
        Self {
            overlay,
            base: read_only(&base),
            installer: read_only(&memory("installer", &[0; 4096])),
            cable: pair(),
            speaker: pair(),
            rpc: pair(),
            windows: pair(),
        }
    }

    /// Adds its devices to a VM.
    fn describe(&self, launch: &mut Launch) {
        launch.disks = vec![
            Disk {
                serial: "root".to_owned(),
                read_only: false,
                format: DiskFormat::Overlay {
                    file: self.overlay.as_raw_fd(),
                    base: self.base.as_raw_fd(),
                },
            },
            Disk {
                serial: "installer".to_owned(),
                read_only: true,
                format: DiskFormat::Raw {
                    file: self.installer.as_raw_fd(),
                },
            },
        ];
        launch.networks = vec![Network {
            mac: "02:00:00:00:00:03".parse().expect("an address"),
            wire: WireFile::Cable {
                file: self.cable[0].as_raw_fd(),
            },
        }];
        launch.balloon = true;
        launch.sound = Some(Sound {
            speaker: Some(self.speaker[0].as_raw_fd()),
            can_record: true,
        });
        launch.links = [
            (LinkKind::Rpc, &self.rpc),
            (LinkKind::Windows, &self.windows),
        ]
        .map(|(kind, [end, _])| LaunchLink {
            kind,
            file: end.as_raw_fd(),
        })
        .into();
    }
}

impl Parts {
    pub(crate) fn new(kernel: &[u8]) -> Self {
        Self::with_initrd(kernel, b"none")
    }

    pub(crate) fn with_initrd(kernel: &[u8], initrd: &[u8]) -> Self {
        let window = memory("window", &[]);
        rustix::fs::ftruncate(&window, WINDOW).expect("memory");
        let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&window, sealed).expect("memory");
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
            kvm: open_kvm().expect("looked for before"),
            rest: None,
        }
    }

    /// With every device that a VM can have.
    pub(crate) fn full(kernel: &[u8]) -> Self {
        Self {
            rest: Some(Rest::new()),
            ..Self::new(kernel)
        }
    }

    /// The launch description, with `/dev/kvm` inherited.
    fn description(&self) -> OwnedFd {
        let launch = Launch {
            kvm: Some(self.kvm.as_raw_fd()),
            ..self.launch()
        };
        memory("launch", &encode(&launch))
    }

    pub(crate) fn launch(&self) -> Launch {
        let mut launch = Launch {
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
            sound: None,
            restore: None,
            assigned: None,
            links: Vec::new(),
            kvm: None,
        };
        if let Some(rest) = &self.rest {
            rest.describe(&mut launch);
        }
        launch
    }
}

/// Runs the launcher to its end.
pub(crate) fn start(launch: &Launch) -> Output {
    start_described(&encode(launch))
}

/// Runs the launcher with any description to its end.
pub(crate) fn start_described(description: &[u8]) -> Output {
    let description = memory("launch", description);
    command(&description)
        .output()
        .expect("the program was built")
}

fn command(description: &OwnedFd) -> Command {
    rustix::io::fcntl_setfd(description, FdFlags::empty()).expect("open");
    // Elsewhere than where it was built when a test runs in the lab, or another build of it.
    let program = std::env::var_os("CASEMATE_VMM")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_casemate-vmm").into());
    let mut command = Command::new(program);
    command.args(["--launch", &description.as_raw_fd().to_string()]);
    command
}

#[cfg(feature = "escape-probe")]
fn attacking(description: &OwnedFd, environment: &[(&str, &str)], log: &std::fs::File) -> Command {
    let mut command = command(description);
    command
        .envs(environment.iter().copied())
        .stderr(log.try_clone().expect("a descriptor"));
    command
}

/// Runs a build that attacks its own jail until that is its end; the signal that ended it.
#[cfg(feature = "escape-probe")]
pub(crate) fn end_of_attacking(
    parts: &Parts,
    environment: &[(&str, &str)],
    log: &std::fs::File,
) -> Option<i32> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("allowed");
    let description = parts.description();
    let output = attacking(&description, environment, log)
        .output()
        .expect("the program was built");
    assert!(
        output.status.success(),
        "it starts before its threads attack"
    );
    // The VM's process is our child now. By its number: other tests have children, too.
    let (_, status) = rustix::process::waitpid(Some(started(&output)), WaitOptions::empty())
        .expect("our child")
        .expect("it ended");
    status.terminating_signal()
}

/// Somebody outside of the jail who would answer.
#[cfg(feature = "escape-probe")]
pub(crate) struct Outside {
    listener: OwnedFd,
    pub(crate) name: String,
}

#[cfg(feature = "escape-probe")]
impl Outside {
    /// Listens on an abstract name, or on a path.
    pub(crate) fn listen(path: Option<&std::path::Path>) -> Self {
        use rustix::net::SocketAddrUnix;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None);
        let listener = listener.expect("socket");
        let name = path.map_or_else(
            || format!("casemate-escape-{}", std::process::id()),
            |path| path.to_string_lossy().into_owned(),
        );
        let address = match path {
            Some(path) => SocketAddrUnix::new(path),
            None => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        };
        rustix::net::bind(&listener, &address.expect("short")).expect("bind");
        rustix::net::listen(&listener, 4).expect("listen");
        Self { listener, name }
    }

    /// Whether nobody has connected.
    pub(crate) fn nobody_came(&self) -> bool {
        matches!(
            rustix::net::accept(&self.listener),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }
}

/// The process that a launcher told of.
fn started(output: &Output) -> Pid {
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pid = answer["pid"].as_i64().expect("a number");
    Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not zero")
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
    /// What was said when we connected to a VM whose guest had ended already.
    early: RefCell<Option<Event>>,
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
        Self::start_as_user(parts, None)
    }

    /// Starts a VM that is described otherwise.
    pub(crate) fn start_as(parts: &Parts, launch: &Launch) -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("allowed");
        let description = memory("launch", &encode(launch));
        Self::from(parts, &mut command(&description))
    }

    /// As another user and group of the same number, which takes root. It may have no right to `/dev/kvm`.
    pub(crate) fn start_as_user(parts: &Parts, user: Option<u32>) -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("allowed");
        let description = parts.description();
        let mut command = command(&description);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        Self::from(parts, &mut command)
    }

    /// From a process with more than belongs to the VM in its environment and among its descriptors.
    pub(crate) fn start_polluted(
        parts: &Parts,
        environment: &[(&str, &str)],
        descriptors: &[BorrowedFd<'_>],
    ) -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("allowed");
        let description = parts.description();
        for descriptor in descriptors {
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty()).expect("open");
        }
        let mut command = command(&description);
        command.envs(environment.iter().copied());
        Self::from(parts, &mut command)
    }

    /// As a user of its own, which takes root where nothing was granted.
    pub(crate) fn start_with_own_user(parts: &Parts, user: u32, group: u32) -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("allowed");
        let description = parts.description();
        let mut command = command(&description);
        command.args(["--own-user", &format!("{user}:{group}")]);
        Self::from(parts, &mut command)
    }

    /// A build that attacks its own jail, with its log in a file.
    #[cfg(feature = "escape-probe")]
    pub(crate) fn start_attacking(
        parts: &Parts,
        environment: &[(&str, &str)],
        log: &std::fs::File,
    ) -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("allowed");
        let description = parts.description();
        Self::from(parts, &mut attacking(&description, environment, log))
    }

    fn from(parts: &Parts, command: &mut Command) -> Self {
        let output = command.output().expect("the program was built");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        let pid = started(&output);
        let control = connect(parts);
        let vm = Self {
            pid,
            control,
            early: RefCell::new(None),
            ended: false,
        };
        match vm.event() {
            Event::State { pid: known, .. } => {
                assert_eq!(known, u32::try_from(pid.as_raw_nonzero().get()).ok());
            }
            stopped @ Event::Stopped { .. } => *vm.early.borrow_mut() = Some(stopped),
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
        if let Some(event) = self.early.borrow_mut().take() {
            return event;
        }
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
