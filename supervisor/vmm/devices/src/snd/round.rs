//! The guest's buffer, round by round. Linux reads from where in its buffer a stream is whether it moves, not how often it came
//! round: when all of a buffer is given back before it looks, the stream seems to stand still, and its program fails after a
//! while. A guest that is paused, or whose processors are busy elsewhere, does not look.
//!
//! So the message that would complete a round waits until the driver has seen the ones before, and has had a moment to tell
//! whom it concerns.

use std::time::Duration;

/// How long a driver has to tell who waits, after the last message that was given back: Linux does that in a thread of its
/// own, of which nothing is seen here. Also how often a driver that looks at nothing is looked at.
const MOMENT: Duration = Duration::from_millis(10);

/// How much of its buffer a guest has back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// Bytes that were given back and not queued again, since the guest has looked.
    owed: u64,
    returned: Duration,
    /// A message is held back.
    holds: bool,
}

impl Round {
    /// The guest has queued a message.
    pub(super) fn queued(&mut self, len: u64) {
        self.owed = self.owed.saturating_sub(len);
    }

    /// A message was given back.
    pub(super) fn returned(&mut self, len: u64, now: Duration) {
        self.owed = self.owed.saturating_add(len);
        self.returned = now;
    }

    /// How many bytes, from the first of the messages that wait, may be dealt with: all, or all before the last frame of one
    /// that would complete a round. `seen` says whether the driver knows of everything that was given back.
    pub(super) fn free(
        &mut self,
        messages: impl Iterator<Item = u64>,
        [buffer, frame]: [u32; 2],
        seen: bool,
        now: Duration,
    ) -> u64 {
        if seen && now.saturating_sub(self.returned) >= MOMENT {
            self.owed = 0;
        }
        let (mut owed, mut free) = (self.owed, 0_u64);
        self.holds = false;
        for len in messages {
            let back = owed.saturating_add(len);
            free = free.saturating_add(len);
            if owed > 0 && back >= buffer.into() {
                self.holds = true;
                return free.saturating_sub(frame.into());
            }
            owed = back;
        }
        free
    }

    /// When to look again, if a message is held back.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.holds.then_some(MOMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u32; 2] = [400, 4];

    fn milli(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_whole_buffer_is_not_given_back_before_its_driver_has_looked() {
        let mut round = Round::default();
        let four = || std::iter::repeat_n(100, 4);
        assert_eq!(round.free(four(), SIZES, true, milli(0)), 396);
        assert_eq!(round.wait(), Some(MOMENT));
        for _ in 0..3 {
            round.returned(100, milli(20));
        }
        let last = || std::iter::once(100);
        assert_eq!(round.free(last(), SIZES, false, milli(500)), 96, "unseen");
        assert_eq!(round.free(last(), SIZES, true, milli(25)), 96, "just now");
        assert_eq!(round.free(last(), SIZES, true, milli(30)), 100);
        assert_eq!(round.wait(), None);
    }

    #[test]
    fn who_queues_what_came_back_is_held_up_by_nothing() {
        let mut round = Round::default();
        for now in 0..100 {
            let three = std::iter::repeat_n(100, 3);
            assert_eq!(round.free(three, SIZES, false, milli(now)), 300);
            round.returned(100, milli(now));
            round.queued(100);
        }
        // One message that is the whole buffer has no others before it.
        assert_eq!(
            round.free(std::iter::once(400), SIZES, false, milli(0)),
            400
        );
    }

    #[test]
    fn what_was_queued_between_does_not_hide_what_was_not_seen() {
        let mut round = Round::default();
        // Three of four come back, one is queued again: with that one and the fourth it would be a round.
        for _ in 0..3 {
            round.returned(100, milli(0));
        }
        round.queued(100);
        let two = std::iter::repeat_n(100, 2);
        assert_eq!(round.free(two, SIZES, false, milli(50)), 196);
    }
}
