//! The walls around a vmm, put up from the inside before any guest code runs. What is in a jailed vmm may be
//! assumed to be the guest's: it has its descriptors, and nothing else.
//!
//! | wall | against |
//! |---|---|
//! | user, mount, network, process, IPC, host name, cgroup namespaces | seeing or signalling anything of the host |
//! | an empty read-only root | paths |
//! | no capabilities, none to be had, `no_new_privs` | the kernel's privileged half |
//! | landlock, where the kernel has it | paths, TCP ports, abstract sockets, should a namespace leak |
//! | not dumpable, no core | other processes of the user reading the VM's memory |
//! | a filter per thread class ([`ThreadClass`]) | system calls that this class does not need |

mod blocked;
mod fork;
mod map;
mod namespaces;
mod policy;
mod privileges;
#[cfg(feature = "escape-probe")]
pub(crate) mod probe;
#[cfg(all(feature = "escape-probe", not(debug_assertions)))]
compile_error!("the feature escape-probe is for tests only: nobody may be given such a build");
mod seccomp;
mod tree;

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};

pub(crate) use map::OwnUser;
pub(crate) use policy::ThreadClass;
pub(crate) use seccomp::Filters;

use crate::inherited;

/// A wall could not be put up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailError {
    /// This kernel does not let us have namespaces.
    #[error(
        "cannot make namespaces: {0}; unprivileged user namespaces are switched off here \
         (see kernel.unprivileged_userns_clone and user.max_user_namespaces, \
         or kernel.apparmor_restrict_unprivileged_userns); --no-namespaces runs with weaker walls"
    )]
    Namespaces(io::Error),
    /// One step failed.
    #[error("cannot {what}")]
    Step {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Names the step in an error.
fn step<T, E: Into<io::Error>>(what: &'static str, result: Result<T, E>) -> Result<T, JailError> {
    result.map_err(|error| JailError::Step {
        what,
        source: error.into(),
    })
}

/// Where we are after the fork.
#[derive(Debug)]
pub(crate) enum Jailed {
    /// Outside: the VM runs, or has failed; only the exit code is left to give.
    Launcher(ExitCode),
    /// Inside, without seccomp yet: the VM is still to be built.
    Inside(Inside),
}

/// The way back to the launcher.
#[derive(Debug)]
pub(crate) struct Inside {
    /// Our process id outside.
    pub(crate) host_pid: Option<u32>,
    /// Which pages of this process were ever touched, for snapshots; `None` where the kernel does not tell. It says so of
    /// this process only, whatever becomes of paths.
    pub(crate) pagemap: Option<std::fs::File>,
    launcher: std::os::unix::net::UnixStream,
    null: OwnedFd,
}

/// Goes to jail. The process forks: the first process of a new process namespace goes on inside.
///
/// # Errors
/// [`JailError`]. The process must then end.
pub(crate) fn enter(namespaces: bool, own: Option<OwnUser>) -> Result<Jailed, JailError> {
    let null = step(
        "open /dev/null",
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()),
    )?;
    privileges::limit_resources()?;
    if namespaces {
        namespaces::unshare(own)?;
    }
    let (launcher, mut inside) = step("make a socket", std::os::unix::net::UnixStream::pair())?;
    match step("fork", fork::fork())? {
        fork::Forked::Parent(child) => {
            drop(launcher);
            let code = step("follow the VM's start", watch(&child, &mut inside))?;
            Ok(Jailed::Launcher(code))
        }
        fork::Forked::Child => {
            drop(inside);
            // Of the process that goes on, so after the fork; and before there are no paths.
            let pagemap = std::fs::File::open("/proc/self/pagemap").ok();
            wall_in(namespaces, &null)?;
            #[cfg(feature = "escape-probe")]
            probe::try_walls();
            let mut pid = [0; 4];
            let host_pid = (&launcher)
                .read_exact(&mut pid)
                .ok()
                .map(|()| u32::from_le_bytes(pid));
            Ok(Jailed::Inside(Inside {
                host_pid,
                pagemap,
                launcher,
                null,
            }))
        }
    }
}

/// Everything that is done after the fork, still with one thread.
fn wall_in(namespaces: bool, null: &OwnedFd) -> Result<(), JailError> {
    step("leave the session", rustix::process::setsid())?;
    step("leave standard input", rustix::stdio::dup2_stdin(null))?;
    step("leave standard output", rustix::stdio::dup2_stdout(null))?;
    if namespaces {
        namespaces::empty_root()?;
    }
    privileges::drop_capabilities()?;
    privileges::forbid_paths()?;
    privileges::hide_memory()
}

impl Inside {
    /// Bounds what this process may map besides `guest` bytes that the guest sees. Called before those are mapped.
    ///
    /// # Errors
    /// [`JailError`].
    pub(crate) fn limit_memory(&self, guest: u64) -> Result<(), JailError> {
        let _ = self;
        privileges::limit_memory(guest)
    }

    /// Tells the launcher that the VM runs, so that it ends. Whoever waits for the end of our standard error must not
    /// wait for the VM's, so a pipe there is let go; a file stays.
    pub(crate) fn ready(mut self) -> io::Result<()> {
        self.launcher.write_all(&[1])?;
        if inherited::has_reader(io::stderr()) {
            rustix::stdio::dup2_stderr(&self.null)?;
        }
        Ok(())
    }
}

/// The launcher's part: tells the child its number, waits until the VM runs or the child has ended.
fn watch(child: &fork::Child, inside: &mut std::os::unix::net::UnixStream) -> io::Result<ExitCode> {
    // Fails when the child has ended, which the read below finds.
    let _ = inside.write_all(&child.pid().to_le_bytes());
    let mut ready = [0];
    if inside.read_exact(&mut ready).is_err() {
        return child.wait();
    }
    let mut output = io::stdout();
    writeln!(output, "{{\"pid\":{}}}", child.pid())?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
