//! A limit on log lines whose occasion the guest chooses, so that it cannot fill the log.

use std::time::{Duration, Instant};

/// Lines per [`WINDOW`] and call site.
const LINES: u32 = 10;
/// Length of the window.
const WINDOW: Duration = Duration::from_secs(5);

/// One call site's allowance.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    since: Option<Instant>,
    lines: u32,
}

impl Throttle {
    /// Whether a line may be written at `now`.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        match self.since {
            Some(since) if now.saturating_duration_since(since) < WINDOW => {
                self.lines = self.lines.saturating_add(1);
            }
            _ => {
                self.since = Some(now);
                self.lines = 1;
            }
        }
        self.lines <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_and_then_ten_more_in_the_next_window() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let count =
            |throttle: &mut Throttle, now| (0..100).filter(|_| throttle.allows(now)).count();
        assert_eq!(count(&mut throttle, start), 10);
        assert_eq!(
            count(&mut throttle, start + WINDOW - Duration::from_millis(1)),
            0
        );
        assert_eq!(count(&mut throttle, start + WINDOW), 10);
    }
}
