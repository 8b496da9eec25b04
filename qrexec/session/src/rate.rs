//! How often something may happen.

use std::time::Instant;

/// A rate with a burst. Time is passed in.
#[derive(Debug)]
pub struct Bucket {
    capacity: f64,
    per_second: f64,
    level: f64,
    last: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        let capacity = f64::from(burst);
        Self {
            capacity,
            per_second,
            level: capacity,
            last: now,
        }
    }

    /// Whether one more may pass now.
    pub fn take(&mut self, now: Instant) -> bool {
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
    use std::time::Duration;

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
