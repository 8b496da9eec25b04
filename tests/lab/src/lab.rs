//! One running lab, from boot to power-off.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::guest::{Command, Guest, Output};
use crate::here::{self, Here, Server};
use crate::image::{self, Image};
use crate::qemu::{self, Accelerator, Drive, Qemu};
use crate::qmp::Qmp;
use crate::screen::{Screen, Seat};
use crate::wire::Ready;

/// Lines of the serial log that an error message shows.
const TAIL: usize = 12;
/// How long `lab-guest` may take to start where no machine has to boot first.
const HERE: Duration = Duration::from_secs(30);
/// Time between two runs of a program whose output is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory in mebibytes. The lab's writable root lives in it too.
    pub memory_mib: u32,
    /// Virtual processors. By default one where they are emulated: the emulators of today's distributions do not keep a
    /// processor from running code that another one has just changed, and a kernel changes its code as it starts VMs.
    pub processors: u32,
    /// Width and height of a screen, which brings keyboard, pointer, udev and seatd with it.
    pub graphics: Option<(u32, u32)>,
    /// A folder that the lab sees read-only at `/payload`; `/payload/bin` leads its PATH.
    pub share: Option<PathBuf>,
    /// More disks; [`Lab::mount`] mounts them.
    pub drives: Vec<Drive>,
    /// The `lab-guest` program; looked for beside the running program when missing.
    pub guest_program: Option<PathBuf>,
    /// How the processor is made.
    pub accelerator: Accelerator,
    /// How long the boot may take: four times that of an idle machine.
    pub boot_timeout: Duration,
    /// More arguments for QEMU.
    pub extra: Vec<String>,
    /// More words for the lab's kernel.
    pub cmdline: String,
}

impl Default for Options {
    fn default() -> Self {
        let accelerator = Accelerator::detect();
        Self {
            memory_mib: 4096,
            processors: if accelerator == Accelerator::Kvm {
                2
            } else {
                1
            },
            graphics: None,
            share: None,
            drives: Vec::new(),
            guest_program: None,
            accelerator,
            boot_timeout: Duration::from_secs(180),
            extra: Vec::new(),
            cmdline: String::new(),
        }
    }
}

/// A running lab, or this machine in its place. Dropping it switches it off. Its folder with the serial log is removed then, unless
/// something failed, the test panics, or `CASEMATE_LAB_KEEP` is set.
#[derive(Debug)]
pub struct Lab {
    guest: Guest,
    machine: Machine,
    ready: Ready,
    boot: Duration,
    failed: AtomicBool,
    /// Last, so that the machine has ended before it goes.
    folder: Option<TempDir>,
    path: PathBuf,
}

/// What the programs run on.
#[derive(Debug)]
enum Machine {
    Emulated {
        qmp: Qmp,
        qemu: Qemu,
        accelerator: Accelerator,
    },
    Here {
        server: Server,
        home: String,
    },
}

impl Lab {
    /// Boots a lab and waits until it takes commands. Makes the image when it is missing.
    ///
    /// # Errors
    /// When the image cannot be made, QEMU does not run, or the boot takes too long.
    pub fn start(options: &Options) -> Result<Self> {
        Self::start_image(&image::ensure(&mut |_| {})?, options)
    }

    /// Boots a lab from an image that is there.
    ///
    /// # Errors
    /// As [`Self::start`].
    #[expect(clippy::print_stderr, reason = "who waits is told why it takes longer")]
    pub fn start_image(image: &Image, options: &Options) -> Result<Self> {
        let mut panicked = false;
        match Self::try_start_image(image, options, &mut panicked) {
            Err(error) if panicked && options.accelerator == Accelerator::Emulation => {
                // With several processors that happens, see [`Options::processors`]. It is no fault of what is tested, and
                // a second start is enough to tell.
                eprintln!("lab: its own kernel gave up while it started; once more: {error:#}");
                Self::try_start_image(image, options, &mut panicked)
            }
            result => result,
        }
    }

    fn try_start_image(image: &Image, options: &Options, panicked: &mut bool) -> Result<Self> {
        // A socket's path may have 107 bytes: a short folder name in the usual place.
        let folder = tempfile::Builder::new().prefix("casemate-lab.").tempdir()?;
        let path = folder.path().to_owned();
        let bench = qemu::bench_folder(&path);
        fs::create_dir(&bench)?;
        let program = guest_program(options.guest_program.as_deref())?;
        fs::copy(&program, bench.join("lab-guest"))
            .with_context(|| format!("cannot copy {}", program.display()))?;
        match boot(image, options, &path) {
            Ok((qemu, qmp, guest, ready, boot)) => Ok(Self {
                guest,
                machine: Machine::Emulated {
                    qmp,
                    qemu,
                    accelerator: options.accelerator,
                },
                ready,
                boot,
                failed: AtomicBool::new(false),
                folder: Some(folder),
                path,
            }),
            Err(error) => {
                let path = folder.keep();
                *panicked = qemu::kernel_panic(&path).is_some();
                Err(error.context(diagnosis(&path)))
            }
        }
    }

    /// Runs programs on this machine, which must have what the test needs. See [`Here`].
    ///
    /// # Errors
    /// When `lab-guest` does not start.
    pub fn start_here(here: &Here) -> Result<Self> {
        let began = Instant::now();
        let home = here.home.to_str().context("the home's path is no UTF-8")?;
        let folder = tempfile::Builder::new()
            .prefix("casemate-here.")
            .tempdir()?;
        let path = folder.path().to_owned();
        let program = guest_program(here.guest_program.as_deref())?;
        let server = Server::start(here, &program, &path)?;
        let guest = Guest::new(server.stream()?)?;
        let ready = guest.wait_ready(HERE).with_context(|| diagnosis(&path))?;
        Ok(Self {
            guest,
            machine: Machine::Here {
                server,
                home: home.to_owned(),
            },
            ready,
            boot: began.elapsed(),
            failed: AtomicBool::new(false),
            folder: Some(folder),
            path,
        })
    }

    /// Home of the ordinary user.
    #[must_use]
    pub fn home(&self) -> &str {
        match &self.machine {
            Machine::Emulated { .. } => "/home/user",
            Machine::Here { home, .. } => home,
        }
    }

    /// Wall time from QEMU's start until the lab took commands.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot
    }

    /// Seconds of the lab's own clock until then.
    #[must_use]
    pub fn uptime_at_ready(&self) -> f64 {
        self.ready.uptime
    }

    /// A program to be run as `user` (`root` or `user`); on this machine, always as our own account.
    #[must_use]
    pub fn command(&self, user: &str, argv: &[&str]) -> Command {
        self.guest.command(user, argv)
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it takes too long or the lab ends. A program that fails is no error here.
    pub fn run(&self, user: &str, argv: &[&str]) -> Result<Output> {
        self.noted(argv, self.command(user, argv).run())
    }

    /// Runs a program that must succeed, and gives its standard output as text.
    ///
    /// # Errors
    /// As [`Self::run`], and when it fails.
    pub fn text(&self, user: &str, argv: &[&str]) -> Result<String> {
        let output = self.command(user, argv).run().and_then(Output::check);
        Ok(self.noted(argv, output)?.text())
    }

    /// Runs a program again and again until its output is as wanted.
    ///
    /// # Errors
    /// When that does not happen within `timeout`; the message holds the last output.
    pub fn wait_for(
        &self,
        user: &str,
        argv: &[&str],
        timeout: Duration,
        mut wanted: impl FnMut(&Output) -> bool,
    ) -> Result<Output> {
        let until = Instant::now() + timeout;
        loop {
            let output = self.run(user, argv)?;
            if wanted(&output) {
                return Ok(output);
            }
            if Instant::now() >= until {
                let error = anyhow::anyhow!("waited {timeout:?}; last: {output:?}");
                return self.noted(argv, Err(error));
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// Writes a file in the lab, owned by `user`, with the mode (octal) `mode`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, user: &str, path: &str, mode: &str, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let script = "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\" && chmod \"$1\" \"$0\"";
        let command = self
            .command(user, &["sh", "-c", script, path, mode])
            .stdin(bytes);
        self.noted(&["put", path], command.run().and_then(Output::check))
            .map(drop)
    }

    /// Reads a file of the lab.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let output = self
            .command("root", &["cat", path])
            .run()
            .and_then(Output::check);
        Ok(self.noted(&["get", path], output)?.stdout)
    }

    /// Mounts the drive called `name` on `target`, which is made when missing.
    ///
    /// # Errors
    /// When there is no such drive, or it holds no such file system.
    pub fn mount(&self, name: &str, target: &str, options: &str) -> Result<()> {
        let script = "mkdir -p \"$1\"; for disk in /sys/block/vd*; do \
                      if [ \"$(cat $disk/serial)\" = \"$0\" ]; then \
                      exec mount -o \"$2\" \"/dev/${disk##*/}\" \"$1\"; fi; done; \
                      echo \"no drive $0\" >&2; exit 1";
        let argv = ["sh", "-c", script, name, target, options];
        let output = self.command("root", &argv).run().and_then(Output::check);
        self.noted(&["mount", name, target], output).map(drop)
    }

    /// The lab's screen, keyboard and pointer.
    #[must_use]
    pub fn screen(&self) -> Screen<'_> {
        Screen {
            seat: match &self.machine {
                Machine::Emulated { qmp, .. } => Seat::Emulated(qmp),
                Machine::Here { .. } => Seat::Compositor(&self.guest),
            },
            folder: self.path.clone(),
        }
    }

    /// What the lab's kernel has said so far.
    ///
    /// # Errors
    /// When the log cannot be read: always on this machine, which booted long ago.
    pub fn serial(&self) -> Result<String> {
        let bytes = fs::read(qemu::serial_log(&self.path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where the lab's own kernel gave up, if it did under emulation, which is no fault of what ran in it: see
    /// [`Options::processors`].
    #[must_use]
    pub fn gave_up(&self) -> Option<String> {
        let emulated = matches!(self.machine, Machine::Emulated { accelerator, .. } if accelerator == Accelerator::Emulation);
        emulated.then(|| qemu::kernel_panic(&self.path)).flatten()
    }

    /// Switches the lab off and waits for QEMU's own end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn shut_down(mut self) -> Result<()> {
        // Nothing in the lab is worth a clean end but the drives, which `sync` writes.
        self.run("root", &["sync"])?;
        match &mut self.machine {
            Machine::Emulated { qmp, qemu, .. } => {
                qmp.execute("quit", &serde_json::json!({}))?;
                qemu.wait(Duration::from_secs(30)).map(drop)
            }
            Machine::Here { server, .. } => {
                server.end();
                Ok(())
            }
        }
    }

    /// Adds what was tried and where the logs are to an error, and keeps the logs.
    fn noted<T>(&self, argv: &[&str], result: Result<T>) -> Result<T> {
        result.with_context(|| {
            self.failed.store(true, Ordering::Relaxed);
            let place = match self.machine {
                Machine::Emulated { .. } => "in the lab",
                Machine::Here { .. } => "on this machine",
            };
            format!("{place}: {}; {}", argv.join(" "), diagnosis(&self.path))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let asked = std::env::var_os("CASEMATE_LAB_KEEP").is_some();
        let keep = asked || self.failed.load(Ordering::Relaxed) || std::thread::panicking();
        if keep && let Some(folder) = self.folder.take() {
            // The path is in the error, or was asked for.
            drop(folder.keep());
        }
    }
}

type Booted = (Qemu, Qmp, Guest, Ready, Duration);

fn boot(image: &Image, options: &Options, path: &Path) -> Result<Booted> {
    let began = Instant::now();
    let mut qemu = Qemu::start(image, options, path)?;
    let guest = Guest::new(qemu.connect(&qemu::command_socket(path))?)?;
    let qmp = Qmp::new(qemu.connect(&qemu::qmp_socket(path))?)?;
    let ready = guest.wait_ready(options.boot_timeout)?;
    Ok((qemu, qmp, guest, ready, began.elapsed()))
}

/// Where the logs are, and the end of what the lab's kernel and QEMU said.
fn diagnosis(path: &Path) -> String {
    let mut text = format!("logs are in {}", path.display());
    let logs = [
        path.join("qemu.log"),
        qemu::serial_log(path),
        here::log(path),
    ];
    for log in logs {
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        let bytes = fs::read(&log).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = lines
            .get(lines.len().saturating_sub(TAIL)..)
            .unwrap_or_default();
        if !tail.is_empty() {
            text.push_str(&format!("\n--- end of {name}\n{}", tail.join("\n")));
        }
    }
    text
}

fn guest_program(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(program) = named {
        return Ok(program.to_owned());
    }
    let this = std::env::current_exe()?;
    // Tests run from `deps`, one folder below the programs.
    for folder in this.ancestors().skip(1).take(2) {
        let program = folder.join("lab-guest");
        if program.is_file() {
            return Ok(program);
        }
    }
    bail!("lab-guest is not built; `cargo build -p casemate-lab --bin lab-guest` builds it")
}
