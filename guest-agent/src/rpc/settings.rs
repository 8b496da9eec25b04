//! What may be set for an agent: where it listens, where services are, whose they are.

use std::{env, path::PathBuf};

use super::{account::DEFAULT_USER, transport::Transport};

/// Where services are looked for, first match wins (specification of qrexec, 1.5).
const SERVICE_PATH: &str = "/run/qubes-rpc:/usr/local/etc/qubes-rpc:/etc/qubes-rpc";

/// Where configurations are looked for (1.6).
const CONFIG_PATH: &str =
    "/run/qubes/rpc-config:/usr/local/etc/qubes/rpc-config:/etc/qubes/rpc-config";

/// Settings of one agent.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How the host is reached.
    pub(crate) transport: Transport,
    /// Where programs of this VM ask.
    pub(crate) agent_socket: PathBuf,
    /// Directories of services.
    pub(crate) services: Vec<PathBuf>,
    /// Directories of their configurations.
    pub(crate) configs: Vec<PathBuf>,
    /// The account that `DEFAULT` stands for.
    pub(crate) user: String,
}

impl Settings {
    /// The usual settings; the environment may name other directories.
    pub(crate) fn new(transport: Transport, agent_socket: PathBuf) -> Self {
        Self {
            transport,
            agent_socket,
            services: directories("QREXEC_SERVICE_PATH", SERVICE_PATH),
            configs: directories("QUBES_RPC_CONFIG_PATH", CONFIG_PATH),
            user: DEFAULT_USER.to_owned(),
        }
    }
}

fn directories(variable: &str, usual: &str) -> Vec<PathBuf> {
    split(&env::var(variable).unwrap_or_else(|_| usual.to_owned()))
}

/// The directories of `A:B:C`.
pub(crate) fn split(path: &str) -> Vec<PathBuf> {
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .collect()
}
