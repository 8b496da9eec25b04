//! From the text of an EXEC frame to something that can be connected to a data stream, or to the exit code that says why
//! not.

use std::{
    ffi::OsStr,
    fmt::Display,
    io::Write,
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use casemate_qrexec_wire::{CommandLine, Execute, RequestedTarget, Work};

use super::{
    account::{Account, Accounts},
    config::ServiceConfig,
    lookup::{Call, LookupError, Service},
    serve::{NO_SERVICE, TROUBLE},
    settings::Settings,
};

/// How long a TCP service may take to accept.
const TCP_WAIT: Duration = Duration::from_secs(10);

/// What a call is served by.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// A process. With `switchable`, its stdin is a socket that it may ask to have as its stdout too.
    Process { command: Command, switchable: bool },
    /// A connected socket, what is written to it first, and when it ends early.
    Socket {
        stream: OwnedFd,
        preamble: Vec<u8>,
        on_client_eof: bool,
        on_service_eof: bool,
    },
}

/// What every call needs of its agent.
#[derive(Debug)]
pub(crate) struct Kitchen {
    pub(crate) settings: Settings,
    accounts: Accounts,
    /// Accounts whose session was there once: later calls do not ask again.
    sessions: Mutex<Vec<String>>,
}

impl Kitchen {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            accounts: Accounts::default(),
            sessions: Mutex::default(),
        }
    }

    /// Gathers the default account's environment before the first call wants it.
    pub(crate) fn warm(&self) {
        if let Err(error) = self.accounts.find(&self.settings.user) {
            tracing::info!(%error, "no default account yet");
        }
    }

    /// Makes what serves a call: a line for the account's shell, or a service with its environment (specification of
    /// qrexec, 1.5).
    ///
    /// # Errors
    /// The exit code of a call that cannot be served.
    pub(crate) fn prepare(&self, line: &CommandLine) -> Result<Prepared, i32> {
        let execute = Execute::parse(line).map_err(|error| trouble(&error))?;
        match &execute.work {
            Work::Shell(line) => {
                let account = self.account(&execute.user)?;
                let mut command = account.command(account.shell());
                command.arg("-c").arg(OsStr::from_bytes(line));
                self.environment(&mut command);
                Ok(Prepared::Process {
                    command,
                    switchable: false,
                })
            }
            Work::Service {
                call,
                source,
                target,
            } => {
                let call = Call::parse(call).map_err(code)?;
                self.service(&execute, call, source, target.as_ref())
            }
        }
    }

    fn service(
        &self,
        execute: &Execute,
        call: Call<'_>,
        source: &str,
        target: Option<&RequestedTarget>,
    ) -> Result<Prepared, i32> {
        let service = call.service(&self.settings.services).map_err(code)?;
        let config = call.config(&self.settings.configs).map_err(code)?;
        let user = config.force_user.as_deref().unwrap_or(&execute.user);
        let program = match service {
            Service::Program(program) => program,
            Service::Socket(path) => {
                self.wait_for_session(&config, execute, user)?;
                let stream = UnixStream::connect(&path).map_err(|error| trouble(&error))?;
                return Ok(socket(stream.into(), &config, call, source, target));
            }
            Service::Tcp(place) => {
                self.wait_for_session(&config, execute, user)?;
                let stream = tcp(place).map_err(|error| trouble(&error))?;
                return Ok(socket(stream, &config, call, source, target));
            }
        };
        let account = self.account(user)?;
        self.wait_for_session(&config, execute, user)?;
        let command = self.program(&account, &program, call, source, target);
        Ok(Prepared::Process {
            command,
            switchable: account.may_signal_agent(),
        })
    }

    fn program(
        &self,
        account: &Account,
        program: &Path,
        call: Call<'_>,
        source: &str,
        target: Option<&RequestedTarget>,
    ) -> Command {
        let mut command = account.command(program);
        self.environment(&mut command);
        if let Some(argument) = call.argument() {
            command.env("QREXEC_SERVICE_ARGUMENT", argument);
            if !argument.is_empty() {
                command.arg(argument);
            }
        }
        command
            .env("QREXEC_SERVICE_FULL_NAME", call.full())
            .env("QREXEC_REMOTE_DOMAIN", source)
            .env("QREXEC_AGENT_PID", std::process::id().to_string())
            .env(
                "QREXEC_REQUESTED_TARGET_TYPE",
                target.map_or("", |target| &target.kind),
            );
        if let Some(RequestedTarget { kind, target }) = target {
            let key = if kind == "keyword" {
                "QREXEC_REQUESTED_TARGET_KEYWORD"
            } else {
                "QREXEC_REQUESTED_TARGET"
            };
            command.env(key, target);
        }
        command
    }

    /// How programs of this VM find us; only needed where it is not the usual place.
    fn environment(&self, command: &mut Command) {
        let Settings {
            transport,
            agent_socket,
            ..
        } = &self.settings;
        command
            .envs(transport.environment())
            .env(crate::tools::client::AGENT_SOCKET, agent_socket);
    }

    /// Runs `qubes.WaitForSession` first, with the account's name as its input. The call goes on even if that fails.
    fn wait_for_session(
        &self,
        config: &ServiceConfig,
        execute: &Execute,
        user: &str,
    ) -> Result<(), i32> {
        if !config.wait_for_session || execute.nogui {
            return Ok(());
        }
        let account = self.account(user)?;
        let sessions = || self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions().iter().any(|known| known == account.name()) {
            return Ok(());
        }
        let waiting = Call::parse("qubes.WaitForSession+").map_err(code)?;
        let Ok(Service::Program(program)) = waiting.service(&self.settings.services) else {
            return Ok(());
        };
        let mut command = self.program(&account, &program, waiting, "dom0", None);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let waited = child.and_then(|mut child| {
            if let Some(mut stdin) = child.stdin.take() {
                // A service that does not ask who is meant needs no answer.
                let _ = writeln!(stdin, "{}", account.name());
            }
            child.wait()
        });
        match waited {
            Ok(status) if status.success() => sessions().push(account.name().to_owned()),
            Ok(status) => tracing::info!(%status, "the session cannot be waited for"),
            Err(error) => tracing::info!(%error, "the session cannot be waited for"),
        }
        Ok(())
    }

    fn account(&self, user: &str) -> Result<Arc<Account>, i32> {
        let name = if user == "DEFAULT" {
            &self.settings.user
        } else {
            user
        };
        self.accounts.find(name).map_err(|error| trouble(&error))
    }
}

fn tcp(place: SocketAddr) -> std::io::Result<OwnedFd> {
    let stream = TcpStream::connect_timeout(&place, TCP_WAIT)?;
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

/// A socket service hears who calls before it hears the caller.
fn socket(
    stream: OwnedFd,
    config: &ServiceConfig,
    call: Call<'_>,
    source: &str,
    target: Option<&RequestedTarget>,
) -> Prepared {
    let mut preamble = Vec::new();
    if !config.skip_service_descriptor {
        preamble.extend_from_slice(format!("{} {source}", call.full()).as_bytes());
        if let Some(RequestedTarget { kind, target }) = target {
            preamble.extend_from_slice(format!(" {kind} {target}").as_bytes());
        }
        preamble.push(0);
    }
    Prepared::Socket {
        stream,
        preamble,
        on_client_eof: config.exit_on_client_eof,
        on_service_eof: config.exit_on_service_eof,
    }
}

fn code(error: LookupError) -> i32 {
    match error {
        LookupError::Missing => NO_SERVICE,
        LookupError::Broken(what) => trouble(&what),
    }
}

fn trouble(why: &dyn Display) -> i32 {
    tracing::warn!(%why, "a call cannot be served");
    TROUBLE
}
