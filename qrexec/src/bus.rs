//! The broker on D-Bus: each method checks its words, asks the broker and maps the error.

use std::{
    io::ErrorKind,
    os::{fd::OwnedFd as StdFd, unix::net::UnixStream},
    sync::Arc,
};

use casemate_api::{CallStream, Decision, Error, Grant, LiveCall};
use casemate_qrexec_wire::{CommandLine, Execute, ServiceCall, Work};
use casemate_vm::{VmId, VmName};
use zbus::zvariant::OwnedFd;

use crate::{
    audit::shown,
    broker::{ADMIN_NAME, AdminCallError, Broker},
    call::DEFAULT_USER,
    errand::{self, MAX_INPUT},
    live::KillError,
    session::{Carrier, Link},
};

/// Longest user name: that of the system's own account database.
const MAX_USER: usize = 32;

/// One client's view of the broker.
#[derive(Debug)]
pub(crate) struct QrexecBus(pub(crate) Arc<Broker>);

#[zbus::interface(name = "org.casemate.Qrexec1")]
impl QrexecBus {
    async fn attach_vm(&self, name: &str, id: u32, link: OwnedFd) -> Result<(), Error> {
        let name = vm_name(name)?;
        let link = Link::new(link.into()).map_err(|error| {
            Error::Usage(format!("the link of '{name}' cannot be used: {error}"))
        })?;
        self.0.attach(name, VmId(id), Carrier::Link(link)).await;
        Ok(())
    }

    async fn detach_vm(&self, name: &str) -> Result<(), Error> {
        let name = vm_name(name)?;
        if self.0.detach(&name).await {
            Ok(())
        } else {
            Err(not_attached(&name))
        }
    }

    async fn attached(&self) -> Vec<String> {
        self.0.attached()
    }

    async fn wait_agent(&self, name: &str) -> Result<(), Error> {
        let name = vm_name(name)?;
        let vm = self.0.vm(&name).ok_or_else(|| not_attached(&name))?;
        vm.wait_agent()
            .await
            .map_err(|_| Error::WrongState(format!("'{name}' ended before its agent reported")))
    }

    async fn run_command(
        &self,
        name: &str,
        user: &str,
        command: &str,
    ) -> Result<CallStream, Error> {
        let work = Work::Shell(command.as_bytes().to_vec());
        self.call(name, user, work).await
    }

    async fn call_service(
        &self,
        name: &str,
        user: &str,
        service: &str,
    ) -> Result<CallStream, Error> {
        let call: ServiceCall = service
            .parse()
            .map_err(|error| Error::Usage(format!("'{service}' is no service: {error}")))?;
        let work = Work::Service {
            call: call.full().to_owned(),
            source: ADMIN_NAME.to_owned(),
            target: None,
        };
        self.call(name, user, work).await
    }

    async fn errand(&self, name: &str, service: &str, input: Vec<u8>) -> Result<i32, Error> {
        if input.len() > MAX_INPUT {
            return Err(Error::Usage(format!(
                "the input of an errand has at most {MAX_INPUT} bytes"
            )));
        }
        let CallStream { stream, .. } = self.call_service(name, "root", service).await?;
        let stream = UnixStream::from(StdFd::from(stream));
        errand::run(stream, &input)
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::TimedOut => {
                    Error::TimedOut(format!("{service} in '{name}' did not end in time"))
                }
                _ => Error::Failed(format!("{service} in '{name}' was lost: {error}")),
            })
    }

    async fn calls(&self) -> Vec<LiveCall> {
        self.0.calls.list()
    }

    async fn kill_call(
        &self,
        call: u64,
        #[zbus(connection)] connection: &zbus::Connection,
    ) -> Result<(), Error> {
        let by = client(connection).await;
        let killed = self.0.calls.kill(call, &by);
        killed.map_err(|error| match error {
            KillError::Unknown => Error::NotFound(format!(
                "there is no live call {call}; `casemate call ls` shows all"
            )),
            KillError::OutOfReach => Error::WrongState(format!(
                "call {call} cannot be killed: {error}; end one of the two VMs"
            )),
        })
    }

    async fn grants(&self) -> Vec<Grant> {
        let grants = self.0.grants().await;
        let show = |(grant, left): (crate::grants::Grant, std::time::Duration)| Grant {
            id: grant.id,
            source: grant.key.judged().to_owned(),
            requested: grant.key.requested,
            target: grant.chosen.destination().to_string(),
            service: shown(&grant.key.service),
            left: left.as_secs(),
        };
        grants.into_iter().map(show).collect()
    }

    async fn revoke_grant(&self, grant: u64) -> Result<(), Error> {
        if self.0.revoke(grant) {
            Ok(())
        } else {
            Err(Error::NotFound(format!(
                "no grant {grant} holds; `casemate call grants` shows all"
            )))
        }
    }

    async fn revoke_grants(&self) -> u32 {
        u32::try_from(self.0.revoke_all()).unwrap_or(u32::MAX)
    }

    async fn wait_call(&self, call: u64) {
        self.0.calls.ended(call).await;
    }

    async fn decisions(&self, limit: u32) -> Vec<Decision> {
        self.0
            .audit
            .last(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    async fn policy_faults(&self) -> Vec<String> {
        self.0.policy().await.faults().to_vec()
    }
}

impl QrexecBus {
    async fn call(&self, name: &str, user: &str, work: Work) -> Result<CallStream, Error> {
        let execute = Execute {
            user: user_name(user)?,
            nogui: false,
            work,
        };
        let command = execute.command_line().map_err(|_| {
            let max = CommandLine::MAX;
            Error::Usage(format!(
                "a command line holds no NUL and has at most {max} bytes"
            ))
        })?;
        let called = self.0.admin_call(vm_name(name)?, command).await;
        let (call, stream) = called.map_err(|error| {
            let text = error.to_string();
            match error {
                AdminCallError::NotAttached(_) | AdminCallError::Session { .. } => {
                    Error::WrongState(text)
                }
                AdminCallError::NoAgent(_) => Error::TimedOut(text),
                AdminCallError::Io(source) => Error::NoResources(format!("{text}: {source}")),
            }
        })?;
        Ok(CallStream {
            call,
            stream: stream.into(),
        })
    }
}

/// Who is at the other end of a connection, as the kernel knows it.
async fn client(connection: &zbus::Connection) -> String {
    let credentials = connection.peer_creds().await.ok();
    let number = |number: Option<u32>| number.map_or("?".to_owned(), |number| number.to_string());
    format!(
        "user {}, process {}",
        number(credentials.and_then(|of| of.unix_user_id())),
        number(credentials.and_then(|of| of.process_id())),
    )
}

fn vm_name(text: &str) -> Result<VmName, Error> {
    text.parse()
        .map_err(|error| Error::Usage(format!("'{text}' is no VM: {error}")))
}

fn not_attached(name: &VmName) -> Error {
    Error::NotFound(format!("'{name}' is not attached to the broker"))
}

/// Checks a user name: it ends at a colon in a command line.
fn user_name(text: &str) -> Result<String, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text {
        "" => Ok(DEFAULT_USER.to_owned()),
        _ if text.len() <= MAX_USER && text.bytes().all(allowed) => Ok(text.to_owned()),
        _ => Err(Error::Usage(format!("'{text}' is no user name"))),
    }
}
