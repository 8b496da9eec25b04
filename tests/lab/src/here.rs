//! This machine in place of an emulated one, where it has KVM itself: the same `lab-guest`, at the other
//! end of a Unix socket, with a home and a runtime folder of its own. It is no fence: programs run as the
//! account that runs the test. They all end with it, daemons too.

use std::fs::{self, File};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// Where an account's own Casemate, or the shell that started the test, would reach into this one.
const FOREIGN: [&str; 8] = [
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "CASEMATE_BACKEND",
    "CASEMATE_PROGRAMS",
    "CASEMATE_SHARE",
    "CASEMATE_ALLOW_ROOT",
];

/// What programs find when they run on this machine.
#[derive(Clone, Debug)]
pub struct Here {
    /// Their home. All XDG folders but the one of sockets are at their usual places below it.
    pub home: PathBuf,
    /// A folder of programs that leads their PATH.
    pub programs: PathBuf,
    /// Added to their environment, which is otherwise that of the test.
    pub environment: Vec<(String, String)>,
    /// The `lab-guest` program; looked for beside the running program when missing.
    pub guest_program: Option<PathBuf>,
}

/// The running `lab-guest`. Dropping it ends it and all that it started.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    stream: UnixStream,
}

impl Server {
    /// Starts `program`; sockets and logs go to `folder`.
    pub(crate) fn start(here: &Here, program: &Path, folder: &Path) -> Result<Self> {
        let runtime = folder.join("run");
        fs::create_dir_all(&here.home)
            .with_context(|| format!("cannot make {}", here.home.display()))?;
        fs::create_dir(&runtime)?;
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700))?;
        let mut path = vec![here.programs.clone()];
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command
            .arg("here")
            .current_dir(&here.home)
            .env("HOME", &here.home)
            .env("PATH", std::env::join_paths(path)?)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(File::create(log(folder))?)
            // What a terminal sends to us must not end it before it has cleared up.
            .process_group(0);
        keep_desktop(&mut command);
        for name in FOREIGN {
            command.env_remove(name);
        }
        command
            .env("XDG_RUNTIME_DIR", &runtime)
            .envs(here.environment.iter().map(|(name, value)| (name, value)));
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self {
            child,
            stream: ours,
        })
    }

    /// The command channel.
    pub(crate) fn stream(&self) -> Result<UnixStream> {
        Ok(self.stream.try_clone()?)
    }

    /// Ends it and all that it started.
    pub(crate) fn end(&mut self) {
        // It takes the end of the channel as the end of the test. Both calls fail only when it has gone.
        drop(self.stream.shutdown(Shutdown::Both));
        drop(self.child.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// What `lab-guest` complains about.
pub(crate) fn log(folder: &Path) -> PathBuf {
    folder.join("lab-guest.log")
}

/// The desktop is still to be found from another home and another runtime folder.
fn keep_desktop(command: &mut Command) {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let (Some(runtime), Some(display)) =
        (variable("XDG_RUNTIME_DIR"), variable("WAYLAND_DISPLAY"))
    {
        // A path that is absolute already stays what it is.
        command.env("WAYLAND_DISPLAY", Path::new(&runtime).join(display));
    }
    if let (Some(home), None) = (variable("HOME"), variable("XAUTHORITY")) {
        command.env("XAUTHORITY", Path::new(&home).join(".Xauthority"));
    }
}
