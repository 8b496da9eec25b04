//! Where everything lies: the four XDG directories and the places of programs. Nothing else reads the environment for
//! a path.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The directories of one user's Casemate.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// What a person writes: `casemate.toml`, `vms/`, `policy.d/`.
    pub(crate) config: PathBuf,
    /// What we must remember: `ids.toml`, `run/`, `pending/`, `logs/`.
    pub(crate) state: PathBuf,
    /// Templates and volumes; laid out by the storage crate.
    pub(crate) data: PathBuf,
    /// Base systems and kernels between template builds.
    pub(crate) cache: PathBuf,
    /// Sockets, mode 0700.
    pub(crate) runtime: PathBuf,
    /// Folders of our programs, in the order of the search.
    programs: Vec<PathBuf>,
    /// Folders of shipped data (policy rules, recipes, guest files), in the order of the search.
    shares: Vec<PathBuf>,
}

impl Paths {
    /// Reads the environment.
    pub(crate) fn from_environment() -> Result<Self> {
        let home = || {
            env::var_os("HOME")
                .map(PathBuf::from)
                .context("HOME is not set; Casemate keeps its files below it")
        };
        let xdg = |variable: &str, below_home: &str| -> Result<PathBuf> {
            let base = match env::var_os(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
            {
                Some(base) => base,
                None => home()?.join(below_home),
            };
            Ok(base.join("casemate"))
        };
        let runtime = match env::var_os("XDG_RUNTIME_DIR") {
            Some(runtime) => PathBuf::from(runtime),
            None => PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw())),
        };
        let executable = env::current_exe().context("cannot tell where this program lies")?;
        let beside = executable
            .parent()
            .map(Path::to_owned)
            .into_iter()
            .collect::<Vec<_>>();
        let mut programs: Vec<PathBuf> = env::var_os("CASEMATE_PROGRAMS")
            .into_iter()
            .map(PathBuf::from)
            .collect();
        programs.extend(beside.iter().cloned());
        programs.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        let mut shares: Vec<PathBuf> = env::var_os("CASEMATE_SHARE")
            .into_iter()
            .map(PathBuf::from)
            .collect();
        shares.extend(
            beside
                .iter()
                .filter_map(|dir| Some(dir.parent()?.join("share/casemate"))),
        );
        shares.push(PathBuf::from("/usr/share/casemate"));
        Ok(Self {
            config: xdg("XDG_CONFIG_HOME", ".config")?,
            state: xdg("XDG_STATE_HOME", ".local/state")?,
            data: xdg("XDG_DATA_HOME", ".local/share")?,
            cache: xdg("XDG_CACHE_HOME", ".cache")?,
            runtime: runtime.join("casemate"),
            programs,
            shares,
        })
    }

    /// Makes the directories that must be ours alone, and refuses a runtime directory that is not.
    pub(crate) fn prepare(&self) -> Result<()> {
        let dirs = [
            self.config.join("vms"),
            self.state.join("run"),
            self.state.join("pending"),
            self.state.join("logs"),
            self.state.join("updates"),
            self.data.clone(),
            self.runtime.join("vms"),
        ];
        for dir in &dirs {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("cannot make the directory {}", dir.display()))?;
        }
        let metadata = fs::symlink_metadata(&self.runtime)
            .with_context(|| format!("cannot inspect {}", self.runtime.display()))?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || !ours || metadata.mode() & 0o077 != 0 {
            bail!(
                "{} must be a directory of yours with mode 0700, because every socket in it gives full control; \
                 remove it and start again",
                self.runtime.display()
            );
        }
        Ok(())
    }

    /// Finds one of our programs: `CASEMATE_PROGRAMS`, beside this program, then `PATH`.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        self.programs
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .with_context(|| {
                format!(
                    "the program {name} is missing beside casemated and in PATH; reinstall Casemate"
                )
            })
    }

    /// Finds a folder of shipped data by the variable that overrides it, then below the share folders.
    pub(crate) fn shared(&self, variable: &str, name: &str) -> PathBuf {
        if let Some(path) = env::var_os(variable) {
            return PathBuf::from(path);
        }
        let candidates: Vec<PathBuf> = self.shares.iter().map(|dir| dir.join(name)).collect();
        let found = candidates.iter().find(|path| path.is_dir());
        found
            .or(candidates.last())
            .cloned()
            .unwrap_or_else(|| PathBuf::from(name))
    }

    /// Where the policy files lie, strongest first.
    pub(crate) fn policy_dirs(&self) -> Vec<PathBuf> {
        vec![
            self.config.join("policy.d"),
            PathBuf::from("/etc/casemate/policy.d"),
            self.shared("CASEMATE_POLICY_RULES", "policy.d"),
        ]
    }

    /// The folder of one VM's sockets.
    pub(crate) fn vm_runtime(&self, name: &casemate_vm::VmName) -> PathBuf {
        self.runtime.join("vms").join(name.as_str())
    }

    /// A log file.
    pub(crate) fn log(&self, file: &str) -> PathBuf {
        self.state.join("logs").join(file)
    }
}
