//! How a copy goes, in words: bytes, rate, and the time that is left.

use std::time::Duration;

/// How much weight the newest interval has in the rate; the rest is the past's.
const NEWEST: f64 = 0.3;

/// The pace of a copy, from what was seen of it so far. It reads no clock: the caller says how long it has gone on.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    seen: u64,
    at: Duration,
    rate: Option<f64>,
}

impl Pace {
    /// Takes note of `bytes` in all after `elapsed`, and returns the rate in bytes a second.
    pub fn note(&mut self, bytes: u64, elapsed: Duration) -> f64 {
        let seconds = elapsed.saturating_sub(self.at).as_secs_f64();
        if seconds > 0.0 {
            let now = float(bytes.saturating_sub(self.seen)) / seconds;
            self.rate = Some(self.rate.map_or(now, |rate| rate + NEWEST * (now - rate)));
            (self.seen, self.at) = (bytes, elapsed);
        }
        self.rate.unwrap_or(0.0)
    }

    /// How long `left` bytes take at this pace; none while nothing moves.
    pub fn remaining(&self, left: u64) -> Option<Duration> {
        let rate = self.rate.filter(|rate| *rate >= 1.0)?;
        Duration::try_from_secs_f64(float(left) / rate).ok()
    }

    /// One line: `1.2 GB of 20.0 GB, 812.0 MB/s, 23 s left`.
    pub fn line(&mut self, bytes: u64, total: u64, elapsed: Duration) -> String {
        let rate = self.note(bytes, elapsed);
        let remaining = match self.remaining(total.saturating_sub(bytes)) {
            Some(left) => format!("{} left", duration(left)),
            None => "stalled".to_owned(),
        };
        format!(
            "{} of {}, {}/s, {remaining}",
            amount(float(bytes)),
            amount(float(total)),
            amount(rate)
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// Bytes in the unit that a person reads, with decimal prefixes.
pub fn amount(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 {
            return match unit {
                "B" => format!("{value:.0} {unit}"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A duration as a person says it: `5 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_a_person() {
        let mut pace = Pace::default();
        let second = Duration::from_secs;
        assert_eq!(
            pace.line(0, 4_000_000_000, second(1)),
            "0 B of 4.0 GB, 0 B/s, stalled"
        );
        let mut pace = Pace::default();
        assert_eq!(
            pace.line(1_000_000_000, 4_000_000_000, second(2)),
            "1.0 GB of 4.0 GB, 500.0 MB/s, 6 s left"
        );
        // Slower now: the rate follows, without jumping.
        assert_eq!(
            pace.line(1_100_000_000, 4_000_000_000, second(3)),
            "1.1 GB of 4.0 GB, 380.0 MB/s, 7 s left"
        );
        // No time has passed: nothing new is known.
        assert_eq!(pace.note(1_200_000_000, second(3)), 380e6);
    }

    #[test]
    fn units() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1000.0, "1.0 kB"),
            (999_960.0, "1.0 MB"),
            (1.25e15, "1250.0 TB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
        for (seconds, text) in [(0, "0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
