//! Bounds of the broker, each with the attack that it stops; those of one session are in `casemate_qrexec_session`.

use std::time::Duration;

/// Calls of one VM that wait for a decision; more are refused. Stops one VM from filling the broker's memory.
pub(crate) const MAX_PENDING: usize = 64;

/// Calls of one VM that wait or run with it as the caller: half of its ports, so that a VM that calls as much as it
/// can leaves half of the ports of whom it calls to others.
pub(crate) const MAX_CALLS: usize = 128;

/// Questions of one VM that are shown or wait to be shown; more are denied. Stops a VM from burying the person.
pub(crate) const MAX_QUESTIONS: usize = 5;

/// How long calls go on without a question when the person allowed that.
pub(crate) const GRANT_LIFE: Duration = Duration::from_secs(600);

/// Kinds of calls of one VM that go on without a question; the oldest gives way. A VM cannot fill the broker's memory
/// with what it had allowed, and a person can still read the list.
pub(crate) const MAX_GRANTS: usize = 64;

/// Notices about one VM: one in this many seconds, after [`NOTICE_BURST`] at once.
pub(crate) const SECONDS_PER_NOTICE: u32 = 2;

/// Notices about one VM that may come at once.
pub(crate) const NOTICE_BURST: u32 = 5;

/// Orders that wait for one VM's session; who gives more waits.
pub(crate) const MAX_ORDERS: usize = 64;

/// Bytes of a service with its argument in the audit log and on the screen: a VM cannot fill the disk with one name.
pub(crate) const MAX_SHOWN: usize = 256;
