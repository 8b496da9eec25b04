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
    /// `allow`, `deny`, `ask-allowed`, `ask-denied`, `granted`, `killed`, `failed`.
    pub result: String,
    /// `FILE:LINE` of the rule that decided, empty when none matched.
    pub rule: String,
    /// One sentence.
    pub reason: String,
}

/// One call that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct LiveCall {
    /// Its number, for `kill_call`.
    pub id: u64,
    /// The calling VM, `dom0` for the admin side.
    pub source: String,
    /// The target that the caller asked for.
    pub requested: String,
    /// The target that the call goes to, empty while that is not decided.
    pub target: String,
    /// Service with its argument, or the admin side's command.
    pub service: String,
    /// `asking`, `starting`, `running`, `ending`.
    pub state: String,
    /// When it came, seconds since 1970.
    pub since: u64,
    /// `FILE:LINE` of the rule that lets it go on, empty before that and for calls of the admin side.
    pub rule: String,
}

/// Calls that go on without a question, because the person said so for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Grant {
    /// Its number, for `revoke_grant`.
    pub id: u64,
    /// The calling VM.
    pub source: String,
    /// The target that it asks for, empty for none.
    pub requested: String,
    /// The target that was chosen: a VM, or `@dispvm:NAME` for a new disposable each time.
    pub target: String,
    /// Service with its argument.
    pub service: String,
    /// Seconds that are left.
    pub left: u64,
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
    /// Calls a service in a VM as the admin domain and as root, with `input` (at most 4096 bytes) on its stdin; returns its
    /// exit code. `TimedOut` when it does not end within 30 seconds.
    fn errand(&self, name: &str, service: &str, input: &[u8]) -> Result<i32, Error>;
    /// Every call that has not ended, oldest first.
    fn calls(&self) -> Result<Vec<LiveCall>, Error>;
    /// Ends a call: one that waits is refused, one that runs is cut off at both ends. `NotFound` for one that is not
    /// live, `WrongState` for one whose stream the broker cannot cut.
    fn kill_call(&self, call: u64) -> Result<(), Error>;
    /// The grants that hold, oldest first.
    fn grants(&self) -> Result<Vec<Grant>, Error>;
    /// Takes a grant back: the next such call is a question again. `NotFound` for one that does not hold.
    fn revoke_grant(&self, grant: u64) -> Result<(), Error>;
    /// Takes all grants back; returns how many there were.
    fn revoke_grants(&self) -> Result<u32, Error>;
    /// Returns when a call has ended; at once for an unknown call.
    fn wait_call(&self, call: u64) -> Result<(), Error>;
    /// The last `limit` decisions.
    fn decisions(&self, limit: u32) -> Result<Vec<Decision>, Error>;
    /// What is wrong with the policy files as they are now, each with file, line and column; empty when nothing is.
    fn policy_faults(&self) -> Result<Vec<String>, Error>;
}
