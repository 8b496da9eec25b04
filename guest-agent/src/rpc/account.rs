//! Accounts of this VM: who they are, and the environment of their sessions, gathered once.

use std::{
    collections::HashMap,
    ffi::{CString, OsString},
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, ensure};
use nix::unistd::{Uid, User, getgrouplist};
use rustix::process::{Gid, Uid as RawUid};

use super::{
    identity::{Identity, as_identity},
    login,
};

/// The account that `DEFAULT` usually stands for.
pub(crate) const DEFAULT_USER: &str = "user";

/// An account that a call may run as.
#[derive(Debug)]
pub(crate) struct Account {
    entry: User,
    /// `None` when the agent itself runs as this account.
    identity: Option<Identity>,
    environment: Vec<(OsString, OsString)>,
}

/// The accounts that were used, so that a call reads no file and starts no login shell.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    known: Mutex<HashMap<String, (Stamp, Arc<Account>)>>,
}

/// When the files of accounts were last changed.
type Stamp = [Option<SystemTime>; 2];

impl Accounts {
    /// Finds an account by name.
    ///
    /// # Errors
    /// When there is none, or when only root could become it.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<Arc<Account>> {
        let stamp = ["/etc/passwd", "/etc/group"]
            .map(|file| fs::metadata(file).and_then(|data| data.modified()).ok());
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, account)) = known().get(name)
            && *of == stamp
        {
            return Ok(Arc::clone(account));
        }
        // Without the lock: a login shell may take its time.
        let account = Arc::new(Account::read(name)?);
        known().insert(name.to_owned(), (stamp, Arc::clone(&account)));
        Ok(account)
    }
}

impl Account {
    fn read(name: &str) -> anyhow::Result<Self> {
        let entry = User::from_name(name)
            .with_context(|| format!("cannot read the account '{name}'"))?
            .with_context(|| format!("there is no account '{name}' in this VM"))?;
        let own = Uid::effective();
        let identity = if own == entry.uid {
            None
        } else {
            ensure!(
                own.is_root(),
                "the agent runs as account {own} and cannot become '{name}'"
            );
            let as_text = CString::new(name).context("the account's name has a NUL")?;
            let groups = getgrouplist(&as_text, entry.gid).context("cannot read the groups")?;
            Some(Identity {
                user: RawUid::from_raw(entry.uid.as_raw()),
                group: Gid::from_raw(entry.gid.as_raw()),
                groups: groups
                    .into_iter()
                    .map(|group| Gid::from_raw(group.as_raw()))
                    .collect(),
            })
        };
        let mut account = Self {
            environment: session(&entry, identity.is_none()),
            entry,
            identity,
        };
        let mut shell = account.command(account.entry.shell.as_path());
        if let Some(gathered) = login::environment(&mut shell) {
            account.environment = gathered;
        }
        Ok(account)
    }

    /// A command that runs `program` as this account, with its session's environment and nothing else.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(if self.entry.dir.is_dir() {
                self.entry.dir.as_path()
            } else {
                Path::new("/")
            });
        if let Some(identity) = &self.identity {
            as_identity(&mut command, identity.clone());
        }
        command
    }

    /// The account's name.
    pub(crate) fn name(&self) -> &str {
        &self.entry.name
    }

    /// The login shell.
    pub(crate) fn shell(&self) -> &Path {
        &self.entry.shell
    }

    /// Whether the account's processes may signal the agent.
    pub(crate) fn may_signal_agent(&self) -> bool {
        self.entry.uid.is_root() || self.identity.is_none()
    }
}

/// What a session has before its profile is read.
fn session(entry: &User, is_own: bool) -> Vec<(OsString, OsString)> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|_| is_own)
        .unwrap_or_else(|| format!("/run/user/{}", entry.uid).into());
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    [
        ("HOME", entry.dir.clone().into_os_string()),
        ("USER", entry.name.clone().into()),
        ("LOGNAME", entry.name.clone().into()),
        ("SHELL", entry.shell.clone().into_os_string()),
        ("PATH", path.into()),
        ("LANG", "C.UTF-8".into()),
        ("XDG_RUNTIME_DIR", runtime),
        ("WAYLAND_DISPLAY", "wayland-0".into()),
        ("XDG_SESSION_TYPE", "wayland".into()),
        ("GDK_BACKEND", "wayland".into()),
        // No GPU in a VM: drawing with cairo beats software GL by far.
        ("GSK_RENDERER", "cairo".into()),
        ("QT_QPA_PLATFORM", "wayland".into()),
    ]
    .map(|(name, value)| (name.into(), value))
    .into()
}
