//! Bounds of one VM's session, each with the attack that it stops.

use std::time::Duration;

/// Calls a second of one VM that are judged; more are refused unheard. Stops a flood from slowing other VMs' calls.
pub const CALLS_PER_SECOND: u32 = 50;

/// Calls that may come at once before [`CALLS_PER_SECOND`] holds.
pub const CALL_BURST: u32 = 200;

/// Bytes that wait for an agent that does not read; its control stream is dropped when there are more.
pub const MAX_OUTGOING: usize = 1024 * 1024;

/// Bytes that wait for an agent from which on we do not read either: a caller that does not take its answers gets no
/// more of them.
pub const OUTGOING_HIGH: usize = 64 * 1024;

/// How long an offered data stream waits for its guest: as long as agents of the reference wait.
pub const OFFER_LIFE: Duration = Duration::from_secs(120);
