//! What the broker offers to the supervisor and to the command line.

use serde::{Deserialize, Serialize};
use zbus::zvariant::{OwnedFd, Type};

use crate::Error;

/// One decided call, newest last in lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Decision {
    /// Seconds since 1970.
    pub time: u64,
    /// The calling VM.
    pub source: String,
    /// The target that the caller asked for.
    pub requested: String,
    /// The target that the call went to, empty when denied.
    pub target: String,
    /// Service with its argument.
    pub service: String,
    /// `allow`, `deny`, `ask-allowed`, `ask-denied`, `failed`.
    pub result: String,
    /// `FILE:LINE` of the rule that decided, empty when none matched.
    pub rule: String,
    /// One sentence.
    pub reason: String,
}

/// A call that the admin side made.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct CallStream {
    /// For `wait_call`.
    pub call: u64,
    /// The admin end of the data stream.
    pub stream: OwnedFd,
}

/// The broker, on `Bus::Qrexec`.
#[zbus::proxy(
    interface = "org.casemate.Qrexec1",
    default_path = "/org/casemate/Qrexec1",
    gen_blocking = false
)]
pub trait Qrexec1 {
    /// A VM has started; `link` is the broker's end of its link (sequenced packets).
    fn attach_vm(&self, name: &str, id: u32, link: OwnedFd) -> Result<(), Error>;
    /// A VM has ended; its calls are terminated.
    fn detach_vm(&self, name: &str) -> Result<(), Error>;
    /// Names of the attached VMs.
    fn attached(&self) -> Result<Vec<String>, Error>;
    /// Returns when the agent of a VM has said hello; an error when the VM is detached first.
    fn wait_agent(&self, name: &str) -> Result<(), Error>;
    /// Runs a command line in a VM (`user` empty: `DEFAULT`), without policy: the admin domain may.
    fn run_command(&self, name: &str, user: &str, command: &str) -> Result<CallStream, Error>;
    /// Calls a service in a VM as the admin domain.
    fn call_service(&self, name: &str, user: &str, service: &str) -> Result<CallStream, Error>;
    /// Returns when a call of the admin side has ended; at once for an unknown call.
    fn wait_call(&self, call: u64) -> Result<(), Error>;
    /// The last `limit` decisions.
    fn decisions(&self, limit: u32) -> Result<Vec<Decision>, Error>;
    /// What is wrong with the policy files as they are now, each with file, line and column; empty when nothing is.
    fn policy_faults(&self) -> Result<Vec<String>, Error>;
}
