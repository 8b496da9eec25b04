//! What the supervisor hears of us: log lines on standard error, one line and an exit code on failure.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

use casemate_vmm_control::StopReason;

/// Exit code when KVM is missing or forbidden.
const NO_KVM: u8 = 8;

/// Exit code after a panic, which is a bug of ours.
const PANICKED: i32 = 101;

/// The command line is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see casemate-vmm --help")]
pub(crate) struct Usage(pub(crate) &'static str);

/// KVM is missing or forbidden.
#[derive(Debug, thiserror::Error)]
#[error("cannot open /dev/kvm: {why}; {hint}")]
pub(crate) struct NoKvm {
    why: io::Error,
    hint: &'static str,
}

impl From<rustix::io::Errno> for NoKvm {
    fn from(errno: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        let hint = match errno {
            Errno::ACCESS | Errno::PERM => {
                "add yourself to the kvm group (sudo usermod -aG kvm $USER) and log in again"
            }
            Errno::NOENT | Errno::NXIO | Errno::NODEV => {
                "load the kvm-intel or kvm-amd module, and enable virtualization in the firmware \
                 (or nested virtualization, if this machine is a VM itself)"
            }
            _ => "see the kernel's log",
        };
        Self {
            why: errno.into(),
            hint,
        }
    }
}

/// The VM's name, which each line begins with from when it is known.
static NAME: OnceLock<String> = OnceLock::new();

/// From now on lines begin with the VM's name, on every thread; a span would be on one only.
pub(crate) fn set_name(name: &str) {
    // A second call would change nothing; there is none.
    let _ = NAME.set(name.to_owned());
}

/// Standard error, with the VM's name before each line.
#[derive(Clone, Copy, Debug)]
struct Lines;

impl io::Write for Lines {
    /// Called with whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(name) = NAME.get() else {
            return io::stderr().write(line);
        };
        // In one piece, so that lines of several VMs do not get mixed.
        let whole = [name.as_bytes(), b": ", line].concat();
        io::stderr().write_all(&whole)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to log, as `RUST_LOG` says. Lines go to standard error; when nobody reads it any more they are lost.
pub(crate) fn init() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call would fail; there is none.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines)
        .with_ansi(false)
        .without_time()
        .try_init();
    // A thread that cannot go on ends the VM, whatever the build does with panics: the others would wait for it. Not by
    // `abort`, which needs what is on no list of allowed system calls.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let _ = writeln!(io::stderr(), "casemate-vmm: thread {name}: {panic}");
        exit(PANICKED);
    }));
}

#[expect(clippy::exit, reason = "there is nothing to unwind to")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

/// Says why the VM does not run, and with which code the process ends.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    // Nothing to be done when standard error is closed.
    let _ = writeln!(io::stderr(), "casemate-vmm: {error:#}");
    if error.is::<Usage>() {
        ExitCode::from(2)
    } else if error.is::<NoKvm>() {
        ExitCode::from(NO_KVM)
    } else {
        ExitCode::FAILURE
    }
}

/// The exit code of a VM that ran.
pub(crate) fn exit_code(reason: StopReason) -> ExitCode {
    match reason {
        StopReason::PowerOff | StopReason::Killed => ExitCode::SUCCESS,
        StopReason::Reset => ExitCode::from(3),
        StopReason::Error => ExitCode::FAILURE,
    }
}
