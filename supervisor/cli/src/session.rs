//! Connections to the daemons. The supervisor is started when it does not answer; the other two are its business.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use casemate_api::{Bus, Compositor1Proxy, Qrexec1Proxy, Supervisor1Proxy};
use zbus::Connection;

use crate::failure::{Failure, Kind};

/// How long the supervisor may take from its start until it answers.
const START: Duration = Duration::from_secs(30);

/// How often a bus that is coming up is tried.
const POLL: Duration = Duration::from_millis(30);

/// Beyond this the supervisor's old log is dropped when it is started, in bytes.
const LARGE_LOG: u64 = 4 * 1024 * 1024;

/// The supervisor, started when needed.
pub(crate) async fn supervisor() -> Result<Supervisor1Proxy<'static>, Failure> {
    let connection = match connect(Bus::Supervisor).await {
        Ok(connection) => connection,
        Err(_) => start_supervisor().await?,
    };
    Ok(casemate_api::supervisor(&connection).await?)
}

/// The broker, if it runs.
pub(crate) async fn broker() -> Result<Qrexec1Proxy<'static>, Failure> {
    let connection = connect(Bus::Qrexec).await.map_err(|_| {
        Failure::failed(
            "casemate-qrexec does not run; it starts with the first VM (`casemate start NAME`)",
        )
    })?;
    Ok(casemate_api::broker(&connection).await?)
}

/// The compositor, if it runs.
pub(crate) async fn compositor() -> Result<Compositor1Proxy<'static>, Failure> {
    let connection = connect(Bus::Compositor).await.map_err(|_| {
        Failure::failed(
            "casemate-compositor does not run; it starts with the first VM (`casemate start NAME`)",
        )
    })?;
    Ok(casemate_api::compositor(&connection).await?)
}

/// Connects to a bus that may not be there.
pub(crate) async fn connect(bus: Bus) -> zbus::Result<Connection> {
    bus.connect(&runtime()).await
}

/// Where the sockets are.
pub(crate) fn runtime() -> PathBuf {
    let base = env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw())),
        PathBuf::from,
    );
    base.join("casemate")
}

/// Where logs and records are.
pub(crate) fn state() -> PathBuf {
    let base = env::var_os("XDG_STATE_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".local/state"),
        PathBuf::from,
    );
    base.join("casemate")
}

/// One of our programs: beside this one, or in `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let beside = env::current_exe().ok()?.parent()?.join(name);
    let in_path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(beside)
        .chain(env::split_paths(&in_path).map(|dir| dir.join(name)))
        .find(|path| path.is_file())
}

async fn start_supervisor() -> Result<Connection, Failure> {
    let log = state().join("logs/casemated.log");
    let mut in_scope = user_manager().is_some();
    let mut child = spawn(&log, in_scope)?;
    let deadline = Instant::now() + START;
    let mut ended = false;
    loop {
        if let Ok(connection) = connect(Bus::Supervisor).await {
            return Ok(connection);
        }
        if ended && std::mem::take(&mut in_scope) {
            // The user manager did not do it; without a scope of its own everything but limits works.
            child = spawn(&log, false)?;
        } else if ended {
            return Err(explain(&log));
        }
        // One that ends may have found another that was faster: try once more before giving up.
        ended = matches!(child.try_wait(), Ok(Some(_)));
        if Instant::now() > deadline {
            return Err(Failure::new(
                Kind::TimedOut,
                format!(
                    "casemated did not answer within {} seconds; its log is {}",
                    START.as_secs(),
                    log.display()
                ),
            ));
        }
        tokio::time::sleep(if ended { POLL * 20 } else { POLL }).await;
    }
}

/// systemd-run, where a manager of this user's services runs.
fn user_manager() -> Option<PathBuf> {
    let base = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    base.join("systemd/private").exists().then_some(())?;
    program("systemd-run")
}

/// How the supervisor is run: in a scope of its own, whose control group is delegated to it, or directly.
fn supervisor_command(program: &Path, manager: Option<PathBuf>) -> Command {
    let Some(manager) = manager else {
        return Command::new(program);
    };
    let mut command = Command::new(manager);
    command
        .args(["--user", "--scope", "--quiet", "--collect"])
        .args(["--property=Delegate=yes", "--"])
        .arg(program);
    command
}

fn spawn(log: &PathBuf, in_scope: bool) -> Result<Child, Failure> {
    let program = program("casemated").ok_or_else(|| {
        Failure::failed("casemated is missing beside casemate and in PATH; reinstall Casemate")
    })?;
    let run = || {
        if let Some(folder) = log.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(log)?;
        if file.metadata()?.len() > LARGE_LOG {
            file.set_len(0)?;
        }
        let manager = user_manager().filter(|_| in_scope);
        supervisor_command(&program, manager)
            .arg("--background")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
    };
    run().map_err(|error| Failure::failed(format!("cannot start {}: {error}", program.display())))
}

/// Why a supervisor ended at once: the last line of its log.
fn explain(log: &PathBuf) -> Failure {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    match last {
        Some(last) => Failure::failed(format!(
            "casemated ended at once: {}",
            crate::terminal::printable(last)
        )),
        None => Failure::failed(format!(
            "casemated ended at once; its log is {}",
            log.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_manager_gives_the_supervisor_a_scope_of_its_own() {
        let program = Path::new("/opt/casemated");
        assert_eq!(supervisor_command(program, None).get_program(), program);
        let command = supervisor_command(program, Some("/bin/systemd-run".into()));
        assert_eq!(command.get_program(), "/bin/systemd-run");
        let arguments: Vec<_> = command.get_args().collect();
        assert!(arguments.contains(&"--property=Delegate=yes".as_ref()));
        assert_eq!(arguments.last(), Some(&program.as_os_str()));
    }
}
