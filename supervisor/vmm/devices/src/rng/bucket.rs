//! A token bucket: so many bytes at once, so many per second. Reads no clock of its own.

use std::fmt;
use std::time::{Duration, Instant};

/// Where time comes from; a value passed in, so that tests need not wait.
pub trait Clock: Send + fmt::Debug {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
}

/// The host's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    /// A clock that begins now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The bucket; begins full.
#[derive(Clone, Debug)]
pub struct Bucket {
    capacity: u64,
    per_second: u64,
    tokens: u64,
    /// Up to when tokens were credited.
    credited: Duration,
}

impl Bucket {
    /// A full bucket of `capacity` tokens that refills at `per_second`.
    pub fn new(capacity: u64, per_second: u64, now: Duration) -> Self {
        Self {
            capacity,
            per_second,
            tokens: capacity,
            credited: now,
        }
    }

    /// Takes up to `wanted` tokens; returns how many there were.
    pub fn take(&mut self, wanted: u64, now: Duration) -> u64 {
        self.refill(now);
        let taken = wanted.min(self.tokens);
        self.tokens = self.tokens.saturating_sub(taken);
        taken
    }

    /// Puts tokens back that were taken but not used.
    pub fn give_back(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.capacity);
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.credited);
        let earned = elapsed
            .as_nanos()
            .saturating_mul(self.per_second.into())
            .checked_div(NANOS)
            .unwrap_or(0);
        // Time that did not make a whole token is not credited, so that frequent calls earn as much as rare ones.
        if let Ok(earned) = u64::try_from(earned)
            && earned < self.capacity
        {
            if earned > 0 {
                let nanos = u128::from(earned)
                    .saturating_mul(NANOS)
                    .checked_div(self.per_second.into())
                    .and_then(|nanos| u64::try_from(nanos).ok())
                    .unwrap_or(u64::MAX);
                self.credited = self.credited.saturating_add(Duration::from_nanos(nanos));
                self.give_back(earned);
            }
        } else {
            self.credited = now;
            self.tokens = self.capacity;
        }
    }
}

const NANOS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_has_earned() {
        let second = Duration::from_secs;
        let milli = Duration::from_millis;
        let mut bucket = Bucket::new(100, 10, second(1));
        for (now, wanted, given) in [
            (second(1), 60, 60),
            (second(1), 60, 40),
            (second(1), 1, 0),
            (milli(1050), 1, 0),
            (milli(1100), 5, 1),
            (milli(1150), 5, 0),
            (milli(1200), 5, 1),
            (milli(1100), 5, 0),
            (second(3), 5, 5),
            (second(3), 100, 13),
            (second(1_000_000), 1000, 100),
            (Duration::MAX, 1000, 100),
            (Duration::MAX, 1000, 0),
        ] {
            assert_eq!(bucket.take(wanted, now), given, "{now:?} {wanted}");
        }
    }

    #[test]
    fn many_short_waits_earn_as_much_as_a_long_one() {
        let mut bucket = Bucket::new(1000, 10, Duration::ZERO);
        bucket.take(1000, Duration::ZERO);
        let earned: u64 = (1..=1000)
            .map(|millis| bucket.take(1000, Duration::from_millis(millis)))
            .sum();
        assert_eq!(earned, 10);
    }
}
