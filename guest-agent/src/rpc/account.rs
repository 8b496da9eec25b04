//! Becoming another account, in a process of its own that then runs the real command.

use std::{ffi::CString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, ensure};
use nix::unistd::{Uid, User, initgroups, setgid, setuid};

/// The account that `DEFAULT` stands for.
pub(crate) const DEFAULT_USER: &str = "user";

/// Environment and account of a call's process.
#[derive(Debug)]
pub(crate) struct Account {
    entry: User,
}

impl Account {
    /// Finds an account by name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        let entry = User::from_name(name)
            .with_context(|| format!("cannot read the account '{name}'"))?
            .with_context(|| format!("there is no account '{name}' in this VM"))?;
        Ok(Self { entry })
    }

    /// A command that runs `program` as this account, with a session's environment and nothing else.
    pub(crate) fn command(&self, program: &str) -> Command {
        let is_self = Uid::effective() == self.entry.uid;
        let mut command = if is_self {
            Command::new(program)
        } else {
            let mut command = Command::new("/proc/self/exe");
            command.args(["as-account", &self.entry.name, "--", program]);
            command
        };
        let runtime = format!("/run/user/{}", self.entry.uid);
        command
            .env_clear()
            .env("HOME", &self.entry.dir)
            .env("USER", &self.entry.name)
            .env("LOGNAME", &self.entry.name)
            .env("SHELL", &self.entry.shell)
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LANG", "C.UTF-8")
            .env(
                "XDG_RUNTIME_DIR",
                std::env::var("XDG_RUNTIME_DIR")
                    .ok()
                    .filter(|_| is_self)
                    .unwrap_or(runtime),
            )
            .env("WAYLAND_DISPLAY", "wayland-0")
            .env("XDG_SESSION_TYPE", "wayland")
            .env("GDK_BACKEND", "wayland")
            // No GPU in a VM: drawing with cairo beats software GL by far.
            .env("GSK_RENDERER", "cairo")
            .env("QT_QPA_PLATFORM", "wayland");
        command.current_dir(if self.entry.dir.is_dir() {
            self.entry.dir.as_path()
        } else {
            std::path::Path::new("/")
        });
        command
    }

    /// The login shell.
    pub(crate) fn shell(&self) -> String {
        self.entry.shell.to_string_lossy().into_owned()
    }
}

/// Becomes `name` and runs a command in place of this process. Returns only with an error.
pub(crate) fn run_as(name: &str, command: &[String]) -> anyhow::Result<()> {
    let account = Account::find(name)?.entry;
    let (program, arguments) = command.split_first().context("no command was given")?;
    let name = CString::new(account.name).context("the account's name has a NUL")?;
    initgroups(&name, account.gid).context("cannot take the account's groups")?;
    setgid(account.gid).context("cannot take the account's group")?;
    setuid(account.uid).context("cannot become the account")?;
    ensure!(
        account.uid.is_root() || !Uid::effective().is_root(),
        "still root after becoming '{}'",
        account.uid
    );
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}
