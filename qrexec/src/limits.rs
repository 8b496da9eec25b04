//! Bounds of the broker, each with the attack that it stops, and the bucket that measures rates.

use std::time::{Duration, Instant};

/// Calls of one VM that wait for a decision; more are refused. Stops one VM from filling the broker's memory.
pub(crate) const MAX_PENDING: usize = 64;

/// Calls of one VM that wait or run with it as the caller: half of its ports, so that a VM that calls as much as it
/// can leaves half of the ports of whom it calls to others.
pub(crate) const MAX_CALLS: usize = 128;

/// Calls a second of one VM that are judged; more are refused unheard. Stops a flood from slowing other VMs' calls.
pub(crate) const CALLS_PER_SECOND: u32 = 50;

/// Calls that may come at once before [`CALLS_PER_SECOND`] holds.
pub(crate) const CALL_BURST: u32 = 200;

/// Questions of one VM that are shown or wait to be shown; more are denied. Stops a VM from burying the person.
pub(crate) const MAX_QUESTIONS: usize = 5;

/// Notices about one VM: one in this many seconds, after [`NOTICE_BURST`] at once.
pub(crate) const SECONDS_PER_NOTICE: u32 = 2;

/// Notices about one VM that may come at once.
pub(crate) const NOTICE_BURST: u32 = 5;

/// Bytes that wait for an agent that does not read; its control stream is dropped when there are more.
pub(crate) const MAX_OUTGOING: usize = 1024 * 1024;

/// Bytes that wait for an agent from which on we do not read either: a caller that does not take its answers gets no
/// more of them.
pub(crate) const OUTGOING_HIGH: usize = 64 * 1024;

/// Orders that wait for one VM's session; who gives more waits.
pub(crate) const MAX_ORDERS: usize = 64;

/// How long an offered data stream waits for its guest: as long as agents of the reference wait.
pub(crate) const OFFER_LIFE: Duration = Duration::from_secs(120);

/// Bytes of a service with its argument in the audit log and on the screen: a VM cannot fill the disk with one name.
pub(crate) const MAX_SHOWN: usize = 256;

/// A rate with a burst. Time is passed in.
#[derive(Debug)]
pub(crate) struct Bucket {
    capacity: f64,
    per_second: f64,
    level: f64,
    last: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        let capacity = f64::from(burst);
        Self {
            capacity,
            per_second,
            level: capacity,
            last: now,
        }
    }

    /// Whether one more may pass now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.level = (self.level + passed * self.per_second).min(self.capacity);
        let passes = self.level >= 1.0;
        if passes {
            self.level -= 1.0;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_and_then_the_rate_pass() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 2.0, start);
        let mut passed = |milliseconds: u64, tries: usize| {
            let now = start + Duration::from_millis(milliseconds);
            (0..tries).filter(|_| bucket.take(now)).count()
        };
        assert_eq!(passed(0, 10), 3);
        assert_eq!(passed(400, 10), 0);
        assert_eq!(passed(1000, 10), 2);
        assert_eq!(passed(3_600_000, 10), 3, "the burst is never exceeded");
    }
}
