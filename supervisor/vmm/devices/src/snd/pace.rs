//! How fast a stream goes. The host's device is its clock; the device's own takes over when the host says nothing.
//!
//! A guest may therefore wait at most [`Pacer::stall`] for a host that is stuck, and a host that says it has heard
//! everything at once makes a guest no faster than [`MOST_PERCENT`] of what its samples are meant for.

use std::time::Duration;

use crate::rng::Bucket;

/// Of the nominal rate: an honest clock is within a hundredth of a percent, and catching up may take a while.
const MOST_PERCENT: u64 = 125;

/// What may be heard at once, in parts of a second: a mixer takes a few of its periods at first.
const BURST: u64 = 5;

/// And in parts of the guest's buffer. Linux sees where its stream is in the buffer, not how often it came round: when the
/// whole buffer is given back in less than the time of half of it, the stream seems to stand still, and its program fails
/// after two seconds. A quarter at once, the rest at the most that the host may be faster, take longer.
const BURST_OF_BUFFER: u64 = 4;

/// But so much in parts of a second, or waking would hold the stream up: a quarter of the smallest buffer of Linux.
const LEAST_BURST: u64 = 200;

/// A silent host is waited for so long, and two periods of the guest.
const PATIENCE: Duration = Duration::from_millis(100);

/// How soon, at the latest, to look again after the host was too fast: before the burst would run over.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Shortest time between two turns of the own clock.
const SHORTEST: Duration = Duration::from_millis(1);

const NANOS: u128 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// The host's, which last moved then.
    Host(Duration),
    /// Ours: up to then everything was counted.
    Own(Duration),
}

/// The clock of one run.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    per_second: u64,
    frame: u64,
    stall: Duration,
    allowance: Bucket,
    clock: Clock,
    /// The host was ahead of its allowance.
    limited: bool,
    /// When to look then.
    look_again: Duration,
}

impl Pacer {
    /// For samples of `frame` bytes a frame, `per_second` bytes in all, of which the guest has `buffer` bytes.
    /// `with_host` says whether there is a host at all.
    pub(super) fn new(
        frame: u32,
        per_second: u32,
        [buffer, period]: [u32; 2],
        with_host: bool,
        now: Duration,
    ) -> Self {
        let per_second = u64::from(per_second).max(1);
        let most = per_second
            .saturating_mul(MOST_PERCENT)
            .checked_div(100)
            .unwrap_or(per_second);
        let burst = per_second.checked_div(BURST).unwrap_or(per_second);
        let of_buffer = u64::from(buffer).checked_div(BURST_OF_BUFFER);
        let least = per_second.checked_div(LEAST_BURST).unwrap_or(0);
        let burst = burst.min(of_buffer.unwrap_or(burst)).max(least);
        let half = time_of(burst, most).checked_div(2).unwrap_or(LOOK_AGAIN);
        Self {
            per_second,
            frame: u64::from(frame).max(1),
            stall: PATIENCE
                .saturating_add(time_of(u64::from(period), per_second).saturating_mul(2)),
            allowance: Bucket::new(burst, most, now),
            clock: if with_host {
                Clock::Host(now)
            } else {
                Clock::Own(now)
            },
            limited: false,
            look_again: half.clamp(SHORTEST, LOOK_AGAIN),
        }
    }

    /// Whether the device's own clock runs.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.clock, Clock::Own(_))
    }

    /// The host is there and is the clock from now on.
    pub(super) fn follow(&mut self, now: Duration) {
        if self.is_own() {
            self.clock = Clock::Host(now);
        }
    }

    /// There is no host any more.
    pub(super) fn lose(&mut self, now: Duration) {
        if !self.is_own() {
            self.clock = Clock::Own(now);
        }
    }

    /// How many of `wanted` bytes are due, in whole frames. `host` bytes are what it says, or has recorded, beyond those
    /// that were due before; with the own clock they do not matter.
    pub(super) fn due(&mut self, wanted: u64, host: u64, now: Duration) -> u64 {
        self.limited = false;
        match self.clock {
            Clock::Host(_) if wanted == 0 => {
                self.clock = Clock::Host(now);
                0
            }
            Clock::Host(moved) => {
                let wish = self.whole(wanted.min(host));
                let taken = self.allowance.take(wish, now);
                let due = self.whole(taken);
                self.allowance.give_back(taken.saturating_sub(due));
                self.limited = due < wish;
                if due > 0 {
                    self.clock = Clock::Host(now);
                } else if !self.limited && now.saturating_sub(moved) >= self.stall {
                    self.clock = Clock::Own(now);
                }
                due
            }
            Clock::Own(counted) => {
                let passed = now.saturating_sub(counted);
                let bytes = passed
                    .as_nanos()
                    .saturating_mul(self.per_second.into())
                    .checked_div(NANOS)
                    .and_then(|bytes| u64::try_from(bytes).ok())
                    .unwrap_or(u64::MAX);
                let due = self.whole(bytes);
                if due >= wanted {
                    // Time without samples is not made up for.
                    self.clock = Clock::Own(now);
                    self.whole(wanted)
                } else {
                    let until = counted.saturating_add(time_of(due, self.per_second));
                    self.clock = Clock::Own(until);
                    due
                }
            }
        }
    }

    /// When to call [`Pacer::due`] again if the host says nothing; `first` bytes are wanted before anything can be done.
    pub(super) fn wait(&self, first: u64, now: Duration) -> Duration {
        match self.clock {
            Clock::Host(_) if self.limited => self.look_again,
            Clock::Host(moved) => {
                let silent = now.saturating_sub(moved);
                self.stall.saturating_sub(silent).max(SHORTEST)
            }
            Clock::Own(counted) => {
                let end = counted.saturating_add(time_of(first, self.per_second));
                end.saturating_sub(now).max(SHORTEST)
            }
        }
    }

    /// How long a silent host is waited for.
    #[cfg(test)]
    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    fn whole(&self, bytes: u64) -> u64 {
        let rest = bytes.checked_rem(self.frame).unwrap_or(0);
        bytes.saturating_sub(rest)
    }
}

/// How long so many bytes last, rounded up.
fn time_of(bytes: u64, per_second: u64) -> Duration {
    let nanos = u128::from(bytes)
        .saturating_mul(NANOS)
        .div_ceil(u128::from(per_second.max(1)));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u32 = 192_000;
    const PERIOD: u32 = 1920;
    const BUFFER: u32 = 20 * PERIOD;

    fn pacer(with_host: bool) -> Pacer {
        Pacer::new(4, SECOND, [BUFFER, PERIOD], with_host, Duration::ZERO)
    }

    fn milli(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_own_clock_gives_what_time_is_worth_and_no_more() {
        let mut pacer = pacer(false);
        assert_eq!(pacer.due(100_000, 0, milli(0)), 0);
        assert_eq!(pacer.due(100_000, 0, milli(10)), 1920);
        // Not a whole frame yet; it is not lost.
        assert_eq!(
            pacer.due(100_000, 0, milli(10) + Duration::from_micros(20)),
            0
        );
        assert_eq!(pacer.due(100_000, 0, milli(20)), 1920);
        // An hour in which nobody looked is worth what waits, and nothing after that.
        let later = Duration::from_secs(3600);
        assert_eq!(pacer.due(4000, 0, later), 4000);
        assert_eq!(pacer.due(4000, 0, later), 0);
    }

    #[test]
    fn many_looks_are_worth_as_much_as_one() {
        let mut pacer = Pacer::new(8, 352_800, [28_224, 3528], false, Duration::ZERO);
        let sum: u64 = (1..=10_000)
            .map(|tick| pacer.due(1 << 30, 0, Duration::from_micros(100 * tick)))
            .sum();
        // Rounding up to the nanosecond costs at most a frame.
        assert!((352_784..=352_800).contains(&sum), "{sum}");
    }

    #[test]
    fn the_host_is_the_clock_while_it_speaks() {
        let mut pacer = pacer(true);
        assert_eq!(pacer.due(10_000, 0, milli(50)), 0, "it has heard nothing");
        assert_eq!(pacer.due(10_000, 4002, milli(60)), 4000, "whole frames");
        assert_eq!(
            pacer.due(3000, 4000, milli(70)),
            3000,
            "no more than there is"
        );
        let stall = pacer.stall();
        assert_eq!(pacer.due(9000, 0, milli(70) + stall - milli(1)), 0);
        assert!(!pacer.is_own());
        assert_eq!(pacer.due(9000, 0, milli(70) + stall), 0);
        assert!(pacer.is_own(), "it has been silent for too long");
        assert_eq!(pacer.due(9000, 0, milli(80) + stall), 1920);
        pacer.follow(milli(90) + stall);
        assert_eq!(pacer.due(9000, 0, milli(100) + stall), 0, "it is back");
    }

    #[test]
    fn a_host_that_is_too_fast_is_slowed_down() {
        let mut pacer = Pacer::new(4, SECOND, [SECOND, PERIOD], true, Duration::ZERO);
        let mut sum = 0;
        for tick in 0..1000 {
            sum += pacer.due(1 << 30, 1 << 30, milli(tick));
            assert!(pacer.wait(PERIOD.into(), milli(tick)) >= milli(1));
        }
        // A second of 125 percent, after a fifth of a second at once.
        assert!((277_000..=278_401).contains(&sum), "{sum}");
        assert!(!pacer.is_own());
    }

    /// Or its driver sees no movement.
    #[test]
    fn a_buffer_takes_more_than_half_its_time_whatever_the_host_says() {
        for frames in [960, 1920, 7680, 38_400] {
            let buffer = 4 * frames;
            let half = time_of((buffer / 2).into(), SECOND.into());
            let mut pacer = Pacer::new(4, SECOND, [buffer, buffer / 2], true, Duration::ZERO);
            let all = u64::from(buffer);
            let at_once = pacer.due(all, all, Duration::ZERO);
            assert!(at_once > 0, "{frames}");
            let later = pacer.due(all - at_once, all, half);
            assert!(at_once + later < all, "{frames}: {at_once} and {later}");
        }
    }

    #[test]
    fn a_stream_without_samples_makes_no_host_late() {
        let mut pacer = pacer(true);
        assert_eq!(pacer.due(0, 0, Duration::from_secs(100)), 0);
        assert_eq!(pacer.due(1920, 0, Duration::from_secs(100) + milli(50)), 0);
        assert!(!pacer.is_own());
    }
}
