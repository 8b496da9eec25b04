//! How many messages a guest may send: a flood stays in its own socket.

use std::time::Duration;

use casemate_window_wire::limits::MAX_MESSAGES_PER_SECOND;

use crate::words::Time;

/// Messages that may come at once after a pause.
const BURST: u32 = 4_000;

/// A token bucket. One token is one message.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: u32,
    filled: Time,
}

impl Bucket {
    pub(super) fn new(now: Time) -> Self {
        Self {
            tokens: BURST,
            filled: now,
        }
    }

    /// Takes a token, or says how long to wait.
    pub(super) fn take(&mut self, now: Time) -> Result<(), Duration> {
        let passed = now.saturating_sub(self.filled);
        let earned = passed.as_micros() * u128::from(MAX_MESSAGES_PER_SECOND) / 1_000_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(BURST);
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.filled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                Ok(())
            }
            None => Err(Duration::from_millis(5)),
        }
    }

    /// The token was not needed.
    pub(super) fn give_back(&mut self) {
        self.tokens = self.tokens.saturating_add(1).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_the_rate_and_no_more() {
        let mut bucket = Bucket::new(Time::ZERO);
        let mut handled = 0u32;
        for millisecond in 0..=1000 {
            while bucket.take(Duration::from_millis(millisecond)).is_ok() {
                handled += 1;
            }
        }
        assert_eq!(handled, BURST + MAX_MESSAGES_PER_SECOND);
    }
}
