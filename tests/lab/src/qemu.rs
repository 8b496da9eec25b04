//! QEMU's command line, and the process: it never outlives whoever started it.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::image::Image;
use crate::lab::Options;
use crate::wire::PORT;

const QEMU: &str = "qemu-system-x86_64";
/// How long QEMU may take to make its sockets.
const SOCKETS: Duration = Duration::from_secs(30);

/// How the lab's processor is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By emulation, which also emulates AMD's virtualization: works on any machine, slowly.
    Emulation,
    /// By emulation of one processor that counts: a nanosecond of the lab's clock is an instruction, so figures are the
    /// same on a busy machine. Slower still; for measuring only.
    Counting,
    /// By the machine's own virtualization, nested.
    Kvm,
}

impl Accelerator {
    /// `CASEMATE_LAB_ACCEL` (`tcg` or `kvm`), or else KVM where the machine lets its VMs have KVM.
    #[must_use]
    pub fn detect() -> Self {
        match std::env::var("CASEMATE_LAB_ACCEL").as_deref() {
            Ok("kvm") => return Self::Kvm,
            Ok(_) => return Self::Emulation,
            Err(_) => {}
        }
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let hardware = processor
            .split_whitespace()
            .any(|word| word == "vmx" || word == "svm");
        let nested = ["kvm_amd", "kvm_intel"].iter().any(|module| {
            fs::read_to_string(format!("/sys/module/{module}/parameters/nested"))
                .is_ok_and(|value| matches!(value.trim(), "1" | "Y"))
        });
        let allowed = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        if hardware && nested && allowed {
            Self::Kvm
        } else {
            Self::Emulation
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            // The default translation buffer is too small for two guests at once.
            Self::Emulation => &["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
            Self::Counting => &[
                "-accel",
                "tcg,thread=single,tb-size=512",
                "-cpu",
                "max",
                "-icount",
                "shift=0,sleep=on",
            ],
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
        }
    }
}

/// What the lab may do to a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only; several labs may share the image.
    ReadOnly,
    /// Write, to a layer that goes with the lab; several labs may share the image.
    Layer,
    /// Write.
    Write,
}

/// A disk image for the lab.
#[derive(Clone, Debug)]
pub struct Drive {
    /// By what name the test finds it in the lab (at most 20 letters and digits).
    pub name: String,
    /// The raw image.
    pub path: PathBuf,
    /// What the lab may do to it.
    pub access: Access,
}

/// A running QEMU. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    /// Kills QEMU when this process dies in a way that runs no destructor.
    watchdog: Watchdog,
}

#[derive(Debug)]
struct Watchdog {
    shell: Child,
    /// Its end is what the shell waits for.
    _life: Option<ChildStdin>,
}

impl Qemu {
    pub(crate) fn start(image: &Image, options: &Options, folder: &Path) -> Result<Self> {
        let console = File::create(folder.join("qemu.log"))?;
        let mut command = Command::new(QEMU);
        command
            .args(arguments(image, options, folder))
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        let missing = || format!("cannot run {QEMU}; `cargo xtask setup` installs it");
        let mut child = command.spawn().with_context(missing)?;
        match Watchdog::over(child.id()) {
            Ok(watchdog) => Ok(Self { child, watchdog }),
            Err(error) => {
                end(&mut child);
                Err(error).context("cannot run a shell")
            }
        }
    }

    /// Connects to a socket that QEMU listens on, as soon as it does.
    pub(crate) fn connect(&mut self, socket: &Path) -> Result<UnixStream> {
        let until = Instant::now() + SOCKETS;
        loop {
            let error = match UnixStream::connect(socket) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("QEMU ended at once ({status})");
            }
            if Instant::now() > until {
                return Err(error).context("QEMU makes no socket");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("QEMU still runs after {timeout:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // The watchdog first: after QEMU is collected, its number may be another process's.
        end(&mut self.watchdog.shell);
        end(&mut self.child);
    }
}

impl Watchdog {
    fn over(process: u32) -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\""])
            .arg(process.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in our group: what a terminal or a test runner sends to us must not stop it.
            .process_group(0)
            .spawn()?;
        let life = shell.stdin.take();
        Ok(Self { shell, _life: life })
    }
}

fn end(child: &mut Child) {
    // Both fail only when it has ended already.
    drop(child.kill());
    drop(child.wait());
}

/// Where QEMU listens for the command channel.
pub(crate) fn command_socket(folder: &Path) -> PathBuf {
    folder.join("command.sock")
}

/// Where QEMU listens for QMP.
pub(crate) fn qmp_socket(folder: &Path) -> PathBuf {
    folder.join("qmp.sock")
}

/// Where the lab's own kernel gave up, if it did.
pub(crate) fn kernel_panic(folder: &Path) -> Option<String> {
    let log = fs::read(serial_log(folder)).ok()?;
    let log = String::from_utf8_lossy(&log);
    let why = log
        .lines()
        .find(|line| line.contains("Kernel panic - not syncing"))?;
    // The instruction tells more than the verdict, where it was said.
    let place = log.lines().find(|line| line.contains("RIP: 0010:"));
    Some(place.unwrap_or(why).trim().to_owned())
}

/// What the lab's kernel says.
pub(crate) fn serial_log(folder: &Path) -> PathBuf {
    folder.join("serial.log")
}

/// What `lab-guest` is brought in by.
pub(crate) fn bench_folder(folder: &Path) -> PathBuf {
    folder.join("bench")
}

fn arguments(image: &Image, options: &Options, folder: &Path) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| list.extend(words.iter().map(|&word| word.to_owned()));
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-M",
        "q35",
    ]);
    add(options.accelerator.arguments());
    add(&[
        "-smp",
        &options.processors.to_string(),
        "-m",
        &options.memory_mib.to_string(),
    ]);
    add(&[
        "-kernel",
        &text(&image.kernel),
        "-initrd",
        &text(&image.initrd),
    ]);
    let mut words = "console=ttyS0 panic=-1 reboot=t quiet cryptomgr.notests".to_owned();
    if options.share.is_some() {
        words.push_str(" lab.payload");
    }
    if options.graphics.is_some() {
        words.push_str(" lab.graphics");
    }
    if !options.cmdline.is_empty() {
        words.push(' ');
        words.push_str(&options.cmdline);
    }
    add(&["-append", &words]);
    add(&["-serial", &format!("file:{}", text(&serial_log(folder)))]);
    add(&["-device", "virtio-rng-pci"]);
    let channel = text(&command_socket(folder));
    add(&[
        "-chardev",
        &format!("socket,id=command,path={channel},server=on,wait=off"),
    ]);
    add(&["-device", "virtio-serial-pci"]);
    add(&[
        "-device",
        &format!("virtserialport,chardev=command,name={PORT}"),
    ]);
    let qmp = text(&qmp_socket(folder));
    add(&["-qmp", &format!("unix:{qmp},server=on,wait=off")]);
    let share = |tag: &str, path: &Path| {
        format!(
            "local,id={tag},path={},mount_tag={tag},security_model=none,readonly=on,multidevs=remap",
            text(path)
        )
    };
    add(&["-virtfs", &share("lab", &bench_folder(folder))]);
    if let Some(path) = &options.share {
        add(&["-virtfs", &share("payload", path)]);
    }
    let root = Drive {
        name: "root".to_owned(),
        path: image.root.clone(),
        access: Access::ReadOnly,
    };
    // The root comes first: the kernel numbers disks in the order of their devices.
    for (index, drive) in std::iter::once(&root).chain(&options.drives).enumerate() {
        let access = match drive.access {
            Access::ReadOnly => "readonly=on",
            Access::Layer => "snapshot=on",
            Access::Write => "discard=unmap",
        };
        let path = text(&drive.path);
        add(&[
            "-drive",
            &format!("if=none,id=drive{index},format=raw,file={path},{access}"),
        ]);
        add(&[
            "-device",
            &format!("virtio-blk-pci,drive=drive{index},serial={}", drive.name),
        ]);
    }
    if let Some((width, height)) = options.graphics {
        add(&[
            "-device",
            &format!("virtio-gpu-pci,xres={width},yres={height}"),
        ]);
        add(&[
            "-device",
            "qemu-xhci,id=usb",
            "-device",
            "usb-kbd,bus=usb.0",
            "-device",
            "usb-tablet,bus=usb.0",
        ]);
    }
    list.extend(options.extra.iter().cloned());
    list
}

/// QEMU takes a comma as the end of a value unless it is doubled.
fn text(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
