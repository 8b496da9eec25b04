//! Keys that never leave their VM: `qubes.SshAgent` and `qubes.Gpg` let another VM use them, through a filter that knows
//! which requests only use a key and which would change, add or give one away.
//!
//! The VM with the keys runs the service; the other one has [`mod@proxy`] listen where its programs look for an agent.

mod gpg;
mod proxy;
mod ssh;

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, ensure};

pub(crate) use proxy::run as proxy;

/// Serves the account's ssh agent on standard streams.
pub(crate) fn ssh_agent() -> anyhow::Result<u8> {
    let named = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usual = runtime.into_iter().flat_map(|dir| {
        ["ssh-agent.socket", "openssh_agent", "gnupg/S.gpg-agent.ssh"].map(|name| dir.join(name))
    });
    let socket = named
        .into_iter()
        .chain(usual)
        .find(|path| path.exists())
        .context("no ssh agent runs in this VM")?;
    relay(&socket, ssh::filter)
}

/// Serves the account's gpg agent on standard streams.
pub(crate) fn gpg_agent() -> anyhow::Result<u8> {
    let output = Command::new("gpgconf")
        .args(["--list-dirs", "agent-socket"])
        .output()
        .context("cannot run gpgconf; is GnuPG installed in this VM?")?;
    let path = String::from_utf8(output.stdout).context("gpgconf gives no path")?;
    // Starts the agent if none runs; without keys there is nothing to serve either way.
    let started = Command::new("gpgconf")
        .args(["--launch", "gpg-agent"])
        .status();
    ensure!(
        started.is_ok_and(|status| status.success()),
        "gpg-agent does not start"
    );
    relay(Path::new(path.trim_end()), gpg::filter)
}

/// What a filter reads, the agent, and where refusals go.
type Filter = fn(&mut dyn Read, &mut dyn Write, &mut dyn Write) -> io::Result<()>;

/// Caller to agent through the filter, agent to caller as it is.
fn relay(socket: &Path, filter: Filter) -> anyhow::Result<u8> {
    let agent = UnixStream::connect(socket)
        .with_context(|| format!("cannot reach the agent at {}", socket.display()))?;
    let (mut answers, mut requests) = (agent.try_clone()?, agent.try_clone()?);
    let down = thread::spawn(move || copy(&mut answers, &mut io::stdout()));
    let filtered = filter(&mut io::stdin().lock(), &mut requests, &mut io::stdout());
    // The agent's last answer still comes.
    let _ = agent.shutdown(Shutdown::Write);
    if filtered.is_err() {
        let _ = agent.shutdown(Shutdown::Both);
    }
    let _ = down.join();
    filtered.context("the caller sends what is no request")?;
    Ok(0)
}

/// Hands on each piece at once.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..read).unwrap_or_default())?;
        to.flush()?;
    }
}
